"""A model's folder in Hugging Face's form: config.json and safetensors, whole or in shards with an index.

Tensors are read and written one at a time; a folder gets its name when everything in it is on the disk.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data.files import sync_folder
from model.huggingface.foreign_keys import DEQUANTISE
from parallel.checkpoint.index import FileRecord
from parallel.checkpoint.tensor_files import (
    Entry,
    ForeignDtype,
    list_tensors,
    read_tensor,
    write_stream,
)

Json = dict[str, Any]
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# How a file begins that git-lfs has not fetched yet.
_POINTER = b"version https://git-lfs.github.com/spec/v1"
# What torch puts in front of names: data parallelism, and compiling.
_WRAPPERS = ("module.", "_orig_mod.")
# Tensors go into a file up to so many bytes; a larger one has a file of its own.
SHARD_BYTES = 5_000_000_000


class PointerFile(ValueError):
    """A file that only says where its content can be fetched."""


def refuse_pointer(path: Path) -> None:
    """Refuse what would be read for ever, and what git-lfs has not fetched yet. Other faults are for others to say.

    Raises:
        PointerFile: the file says only where its content is.
        ValueError: a pipe or a device.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: is a pipe or a device and not a file")
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:
        return
    if start == _POINTER:
        raise PointerFile(
            f"{path}: is a git-lfs pointer and not the file itself; run `git lfs pull` in {path.parent}"
        )


def full_names(stored: Iterable[str]) -> dict[str, str]:
    """The name in the files of every tensor, by its name in a whole model.

    A model may have been saved without its head (`layers.0...`) or inside a wrapper of torch (`module.model...`).
    """
    names = {name: name for name in stored}
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in names):
            names = {name.removeprefix(wrapper): found for name, found in names.items()}
    if any(name.startswith("layers.") for name in names):
        names = {
            name if name.startswith("lm_head.") else f"model.{name}": found
            for name, found in names.items()
        }
    return names


class ModelFolder:
    """What a folder holds: `config`, and the place of every tensor, by its name in a whole model.

    Raises:
        ValueError: a file is missing, is not what it should be, or the index does not name what is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = self.json("config.json", needed=True)
        self.entries: dict[str, Entry] = {}
        self._file_of: dict[str, Path] = {}
        indexed = self.json(INDEX).get("weight_map")
        for name in self._files(indexed):
            try:
                refuse_pointer(folder / name)
                found = list_tensors(folder / name)
            except ForeignDtype as error:
                raise ValueError(f"{folder}: {error}{DEQUANTISE}") from error
            except PointerFile:
                raise
            except (OSError, ValueError) as error:
                raise ValueError(f"{folder}: {name} cannot be read ({error})") from error
            if twice := sorted(found.keys() & self.entries.keys()):
                raise ValueError(f"{folder}: {twice[0]} is in two files")
            self.entries |= found
            self._file_of |= dict.fromkeys(found, folder / name)
        if indexed is not None and set(indexed) != set(self.entries):
            strange = sorted(set(indexed) ^ set(self.entries))
            raise ValueError(
                f"{folder}: {INDEX} and the files differ: {strange[0]}; fetch the model anew"
            )
        self._stored = full_names(self.entries)
        self.entries = {name: self.entries[stored] for name, stored in self._stored.items()}

    def json(self, name: str, *, needed: bool = False) -> Json:
        """The object in a file, empty where there is none and none is needed."""
        path = self.folder / name
        try:
            refuse_pointer(path)
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            if needed:
                raise ValueError(
                    f"{path}: no such file; give the folder of a Hugging Face model"
                ) from None
            return {}
        except PointerFile:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: cannot be read ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: must hold an object")
        return content

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype it is stored in."""
        stored = self._stored[name]
        return read_tensor(self._file_of[stored], stored)

    @property
    def renamed(self) -> str:
        """How the names in the files differ from those of a whole model; empty where they do not."""
        name, stored = next(iter(self._stored.items()))
        return (
            "" if name == stored else f"{stored} is read as {name}, and all other tensors likewise"
        )

    def _files(self, indexed: object) -> list[str]:
        if indexed is None:
            if not (self.folder / WHOLE).is_file():
                raise ValueError(
                    f"{self.folder}: has neither {WHOLE} nor {INDEX}; save the model with transformers as safetensors"
                )
            return [WHOLE]
        if not isinstance(indexed, dict):
            raise ValueError(f"{self.folder}: {INDEX} has no weight_map")
        files = sorted(set(map(str, indexed.values())))
        for name in files:
            if Path(name).name != name:
                raise ValueError(f"{self.folder}: {INDEX} names {name!a}, which is no file in it")
        return files


def shards(entries: Mapping[str, Entry], most_bytes: int) -> list[list[str]]:
    """Names in files of at most so many bytes each, in order."""
    files: list[list[str]] = []
    room = 0
    for name, entry in entries.items():
        if not files or entry.bytes > room:
            files.append([])
            room = most_bytes
        files[-1].append(name)
        room -= entry.bytes
    return files


@dataclass(frozen=True)
class WrittenFile:
    """A file of tensors that was written: its name, its tensors in order, and what an index says of it."""

    name: str
    tensors: list[str]
    record: FileRecord


def write_shards(
    folder: Path,
    entries: Mapping[str, Entry],
    tensors: Iterator[tuple[str, Tensor]],
    *,
    shard_bytes: int,
    named: Callable[[int, int], str],
    metadata: Mapping[str, str] | None = None,
) -> list[WrittenFile]:
    """Write tensors that come in the order of `entries` into files. named: the file's name, by its number from 0 and
    their count."""
    files = shards(entries, shard_bytes)
    written = []
    for number, names in enumerate(files):
        file = named(number, len(files))
        part = {name: entries[name] for name in names}
        record = write_stream(folder / file, part, in_order(names, tensors), dict(metadata or {}))
        written.append(WrittenFile(file, names, record))
    return written


def write_model(
    folder: Path,
    entries: Mapping[str, Entry],
    tensors: Iterator[tuple[str, Tensor]],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors that come in the order of `entries` into one file, or into shards and their index."""

    def named(number: int, count: int) -> str:
        return WHOLE if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"

    files = write_shards(
        folder, entries, tensors, shard_bytes=shard_bytes, named=named, metadata={"format": "pt"}
    )
    if len(files) > 1:
        weight_map = {name: file.name for file in files for name in file.tensors}
        total = sum(entry.bytes for entry in entries.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def in_order(names: Sequence[str], tensors: Iterator[tuple[str, Tensor]]) -> Iterator[Tensor]:
    """The next tensors, which must be these."""
    for name in names:
        found, tensor = next(tensors)
        assert found == name, f"{found} came where {name} belongs"
        yield tensor
        del tensor


def refuse_output(output: Path) -> None:
    """Raise ValueError where a folder of that name cannot be made: it is there, and not an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output={output}: is there already; give another, or remove it")


def make_folder(output: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that is complete as soon as it has its name. A link is followed.

    Raises:
        ValueError: there is something of that name already.
        OSError: the file system refuses; nothing is left behind.
    """
    refuse_output(output)
    output = Path(os.path.realpath(output))
    # No other process and nobody's folder has this name; it is short, however long that of the output.
    partial = output.with_name(f".{socket.gethostname()}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        if output.exists():
            output.rmdir()
        partial.rename(output)
        sync_folder(output.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
