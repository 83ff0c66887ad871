"""The index of a checkpoint: its files with size and SHA-256, its tensors with file, shape and dtype. No tensors."""

from pathlib import Path
from typing import TypedDict


class DamagedCheckpoint(ValueError):
    """A checkpoint differs from what was written."""


class FileRecord(TypedDict):
    """Size and checksum of a file."""

    bytes: int
    sha256: str


class TensorRecord(TypedDict):
    """File, shape and dtype of a tensor."""

    file: str
    shape: list[int]
    dtype: str


class Index(TypedDict):
    """All files and tensors of all ranks, by name and by key."""

    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]


def checked_index(content: dict[str, object]) -> Index:
    """Returns the index in `content`, which was read from JSON.

    Raises:
        ValueError: `content` is not an index, or names a file outside the folder.
    """
    files, tensors = content.get("files"), content.get("tensors")
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise ValueError("it has no tables `files` and `tensors`")
    for name, record in files.items():
        if not name or Path(name).name != name:
            raise ValueError(f"{name!a} is not a name of a file in its folder")
        types = {key: type(value) for key, value in record.items()} if type(record) is dict else {}
        if types != {"bytes": int, "sha256": str}:
            raise ValueError(f"{name!a} has no size and sha256")
    for key, record in tensors.items():
        if not (isinstance(record, dict) and record.get("file") in files):
            raise ValueError(f"{key!a} is in no file")
        shape = record.get("shape")
        if not (isinstance(shape, list) and all(isinstance(size, int) for size in shape)):
            raise ValueError(f"{key!a} has no shape")
    return {"files": files, "tensors": tensors}
