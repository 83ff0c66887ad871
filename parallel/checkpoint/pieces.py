"""Tensors of a checkpoint read in pieces, without torch and without mapping a file: memory is that of one piece.

For the format of a file see `tensor_files.py`. Only float32 is read, the one dtype of checkpoints.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parallel.checkpoint.index import DamagedCheckpoint, Index

PIECE_BYTES = 4 << 20
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where the elements of one tensor lie. offset: of its first byte in the file."""

    path: Path
    offset: int
    shape: tuple[int, ...]

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """Yields the elements in order, at most PIECE_BYTES at a time, each piece of one dimension.

        Raises:
            OSError: the file cannot be read.
            DamagedCheckpoint: the file ends before the tensor does.
        """
        left, start = math.prod(self.shape), self.offset
        while left:
            count = min(left, PIECE_BYTES // 4)
            piece = np.fromfile(self.path, dtype="<f4", count=count, offset=start)
            if len(piece) < count:
                raise DamagedCheckpoint(f"{self.path}: ends before its tensors do")
            yield piece
            left, start = left - count, start + 4 * count


def stored_tensors(folder: Path, index: Index) -> dict[str, StoredTensor]:
    """Returns where every tensor of a checkpoint lies, by key. Reads the headers of its files only.

    Raises:
        DamagedCheckpoint: a file is missing or cut off, or does not hold the tensors of the index as float32.
        OSError: a file cannot be read.
    """
    headers = {name: _header(folder / name) for name in index["files"]}
    sizes = {name: (folder / name).stat().st_size for name in headers}
    found = {}
    for key, record in index["tensors"].items():
        start, entries = headers[record["file"]]
        entry, shape = entries.get(key), tuple(record["shape"])
        begin = _begin(entry, shape)
        ends = None if begin is None else start + begin + 4 * math.prod(shape)
        if begin is None or ends is None or ends > sizes[record["file"]]:
            raise DamagedCheckpoint(
                f"checkpoint {folder}: {record['file']} does not hold {key} as its index says"
            )
        found[key] = StoredTensor(folder / record["file"], start + begin, shape)
    return found


def _header(path: Path) -> tuple[int, dict[str, object]]:
    """Returns the place of the first tensor's first byte, and the header's rows by key."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            raw = file.read(size) if size <= _MOST_HEADER_BYTES else b""
        entries = json.loads(raw)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: is missing") from None
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path}: its header is damaged") from error
    return 8 + size, entries if isinstance(entries, dict) else {}


def _begin(entry: object, shape: tuple[int, ...]) -> int | None:
    """Returns the tensor's place after the header; None if the row is not that of float32 in this shape."""
    if not isinstance(entry, dict) or entry.get("dtype") != "F32":
        return None
    offsets = entry.get("data_offsets")
    if tuple(entry.get("shape") or ()) != shape or not isinstance(offsets, list):
        return None
    begin, end = (*offsets, None, None)[:2]
    fits = isinstance(begin, int) and isinstance(end, int) and begin >= 0
    return begin if fits and end - begin == 4 * math.prod(shape) else None
