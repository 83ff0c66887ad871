"""Tensors on disk, one safetensors file a rank, each with its size and SHA-256. The only import of safetensors.

    8 bytes   little-endian length N of the header
    N bytes   JSON: {key: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}
    the rest  the tensors' bytes, end to end

The file is written here and not by the package, for two reasons: the checksum is of the bytes that were
meant, taken on their way out, not of what a disk gave back; and a full disk is an OSError of that name.
Reading is the package's: it checks the header against the file, and maps tensors instead of copying them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WRITE_BYTES = 8 << 20
READ_BYTES = 8 << 20
_ALIGNMENT = 8


class FileRecord(TypedDict):
    """What a file must be."""

    bytes: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write float32 CPU tensors to a new file, through to the disk.

    Raises:
        OSError: the file system refuses.
    """
    whole, size = hashlib.sha256(), 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        for piece in _pieces(tensors):
            whole.update(piece)
            size += len(piece)
            while piece:
                piece = piece[os.write(file, piece) :]
        os.fsync(file)
    finally:
        os.close(file)
    return {"bytes": size, "sha256": whole.hexdigest()}


def _pieces(tensors: Mapping[str, Tensor]) -> Iterable[memoryview]:
    yield memoryview(_header(tensors))
    for tensor in tensors.values():
        content = tensor.contiguous().flatten().numpy().data.cast("B")
        for start in range(0, len(content), WRITE_BYTES):
            yield content[start : start + WRITE_BYTES]


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, end = {}, 0
    for key, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def file_record(path: Path, progress: Callable[[int], None]) -> FileRecord:
    """Size and SHA-256 of a file as it lies on the disk; `progress` gets the bytes of each piece."""
    whole, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(READ_BYTES):
            whole.update(piece)
            size += len(piece)
            progress(len(piece))
    return {"bytes": size, "sha256": whole.hexdigest()}


def map_tensors(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors of these keys, float32, mapped into memory: what is not touched is not read.

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
