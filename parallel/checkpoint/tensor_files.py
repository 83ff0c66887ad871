"""Tensors on disk, one safetensors file a rank, each with its size and SHA-256. The only import of safetensors.

    8 bytes   little-endian length N of the header
    N bytes   JSON: {key: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}
    the rest  the tensors' bytes, end to end

The file is written here and not by the package, for two reasons: the checksum is computed from the bytes in memory
as they are written, not from what a disk returns; and a full disk raises the usual OSError. The package reads: it
checks the header against the file, and maps tensors instead of copying them.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from parallel.checkpoint.index import FileRecord

WRITE_BYTES = 8 << 20
READ_BYTES = 8 << 20
_ALIGNMENT = 8
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class ForeignDtype(ValueError):
    """A tensor's dtype is not float32, bfloat16 or float16."""


class Entry(NamedTuple):
    """Dtype and shape of one tensor of a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes of the tensor's elements."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Writes float32 CPU tensors to a file, and flushes it to the disk (fsync).

    Raises:
        OSError: the file cannot be written.
    """
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    entries = {key: Entry(tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
    return write_stream(path, entries, tensors.values())


def write_stream(
    path: Path,
    entries: Mapping[str, Entry],
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str] | None = None,
) -> FileRecord:
    """Writes CPU tensors, taken one by one in the order of `entries`, to a file, and flushes it to the disk (fsync).

    Raises:
        OSError: the file cannot be written.
    """
    whole, size = hashlib.sha256(), 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for piece in _pieces(entries, tensors, metadata):
            whole.update(piece)
            size += len(piece)
            while piece:
                piece = piece[os.write(file, piece) :]
        os.fsync(file)
    finally:
        os.close(file)
    return {"bytes": size, "sha256": whole.hexdigest()}


def _pieces(
    entries: Mapping[str, Entry], tensors: Iterable[Tensor], metadata: Mapping[str, str] | None
) -> Iterator[memoryview]:
    yield memoryview(_header(entries, metadata))
    for entry, tensor in zip(entries.values(), tensors, strict=True):
        assert Entry(tensor.dtype, tuple(tensor.shape)) == entry
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().data
        del tensor
        for start in range(0, len(content), WRITE_BYTES):
            yield content[start : start + WRITE_BYTES]


def _header(entries: Mapping[str, Entry], metadata: Mapping[str, str] | None) -> bytes:
    rows: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for key, entry in entries.items():
        begin, end = end, end + entry.bytes
        rows[key] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(rows).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def list_tensors(path: Path) -> dict[str, Entry]:
    """Returns dtype and shape of every tensor of a file, in the order in which they are stored.

    Raises:
        OSError: there is no such file.
        ForeignDtype: a tensor is not float32, bfloat16 or float16.
        ValueError: it is not a safetensors file.
    """
    dtypes = {name: dtype for dtype, name in _NAMES.items()}
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.offset_keys()}
            found = {key: (part.get_dtype(), part.get_shape()) for key, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error
    for key, (name, _) in found.items():
        if name not in dtypes:
            raise ForeignDtype(f"{path.name}: {key} is {name}; use {', '.join(dtypes)}")
    return {key: Entry(dtypes[name], tuple(shape)) for key, (name, shape) in found.items()}


def read_tensor(path: Path, key: str) -> Tensor:
    """Returns one tensor of a file in the file's dtype, mapped into memory while the tensor is alive."""
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(key)
    return tensor


def file_record(path: Path, progress: Callable[[int], None]) -> FileRecord:
    """Returns size and SHA-256 of a file on disk. progress: called with the number of bytes of each piece read."""
    whole, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(READ_BYTES):
            whole.update(piece)
            size += len(piece)
            progress(len(piece))
    return {"bytes": size, "sha256": whole.hexdigest()}


def map_tensors(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Returns the float32 tensors of these keys, mapped into memory: parts that are not used are not read.

    Raises:
        OSError: there is no such file.
        ValueError: it is not a safetensors file, or does not hold these tensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {key: file.get_slice(key)[...] for key in shapes}
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error
    for key, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.shape != shapes[key]:
            raise ValueError(
                f"{path.name}: {key} is {tensor.dtype} {tuple(tensor.shape)}, the index says float32 "
                f"{tuple(shapes[key])}"
            )
    return tensors
