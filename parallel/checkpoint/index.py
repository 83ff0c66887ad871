"""The index of a checkpoint: which files it has, which tensors lie in them, and what each must be. No tensors."""

from pathlib import Path
from typing import TypedDict


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written."""


class FileRecord(TypedDict):
    """What a file must be."""

    bytes: int
    sha256: str


class TensorRecord(TypedDict):
    """Where a tensor is and what it must be."""

    file: str
    shape: list[int]
    dtype: str


class Index(TypedDict):
    """Everything that the ranks wrote."""

    files: dict[str, FileRecord]
    tensors: dict[str, TensorRecord]


def checked_index(content: dict[str, object]) -> Index:
    """An index as it was read from JSON.

    Raises:
        ValueError: it names files outside the folder, or is not an index.
    """
    files, tensors = content.get("files"), content.get("tensors")
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise ValueError("it has no tables of files and tensors")
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
