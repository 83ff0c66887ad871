"""Reads and writes folders of Hugging Face models: config.json and safetensors, in one file or shards with an index.

Tensors are read and written one at a time; a new folder is renamed to its final name when it is complete on the disk.
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
from model.huggingface.wrappers import WRAPPERS, part_of, text_config, text_name
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
# First bytes of a file that git-lfs has not fetched yet.
_POINTER = b"version https://git-lfs.github.com/spec/v1"
# Prefixes that torch's wrappers add to names: DataParallel, and torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# Largest size of a file of several tensors, in bytes; a larger tensor has a file of its own.
SHARD_BYTES = 5_000_000_000


class PointerFile(ValueError):
    """A file is a git-lfs pointer, not the content itself."""


def refuse_pointer(path: Path) -> None:
    """Raises for pipes, devices and git-lfs pointers. Other faults are left to the code that reads the file.

    Raises:
        PointerFile: the file is a git-lfs pointer.
        ValueError: the path is a pipe or a device.
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
    """Returns the name of every tensor in the files, by its name in a whole model.

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


def _in_words(entries: Mapping[str, Entry]) -> str:
    """Returns number and bytes of these tensors by the part that they belong to."""
    parts: dict[str, list[Entry]] = {}
    for name, entry in entries.items():
        parts.setdefault(part_of(name), []).append(entry)
    return ", ".join(
        f"{part} ({len(found)} tensor{'s' * (len(found) > 1)}, {sum(entry.bytes for entry in found):,} bytes)"
        for part, found in parts.items()
    )


class ModelFolder:
    """A model's folder: `config`, and the entry of every tensor, by its name in a whole model.

    text_only: for a folder with a multimodal model, which becomes that of its language model. left_out: the tensors
    that are not the language model's, in words; empty for other folders.

    Raises:
        ValueError: a file is missing or cannot be read, the index differs from the files, or text_only is not given
            for a multimodal model, or given for another one.
    """

    def __init__(self, folder: Path, *, text_only: bool = False) -> None:
        self.folder = folder
        self.config = self.json("config.json", needed=True)
        multimodal = str(self.config.get("model_type")) in WRAPPERS
        if text_only and not multimodal:
            raise ValueError(
                f"text-only: has no effect: {folder} has a model of {self.config.get('model_type')}, and the "
                f"multimodal ones are {', '.join(WRAPPERS)}; drop it"
            )
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
        self.left_out = self._take_language_model(text_only=text_only) if multimodal else ""
        self.entries = {name: self.entries[stored] for name, stored in self._stored.items()}

    def _take_language_model(self, *, text_only: bool) -> str:
        """Reduces names and config to those of the language model; returns what is left out."""
        kind = str(self.config["model_type"])
        names = {name: text_name(name) for name in self._stored}
        others = [name for name, text in names.items() if not text]
        found = _in_words({name: self.entries[self._stored[name]] for name in others})
        if not text_only:
            raise ValueError(
                f"{self.folder}: {kind} is a multimodal model; --text-only imports its language model alone and leaves "
                f"out {found or 'nothing'}"
            )
        known = WRAPPERS[kind].others
        if strange := sorted(name for name in others if part_of(name) not in known):
            raise ValueError(
                f"{self.folder}: {strange[0]}: is neither of the language model nor of {', '.join(known)}, which "
                f"--text-only leaves out of a {kind}; {len(strange)} such"
            )
        self._stored = {text: self._stored[name] for name, text in names.items() if text}
        has_head = any(text.startswith("lm_head.") for text in self._stored)
        self.config = text_config(self.config, has_head=has_head)
        return f"{found or 'nothing'} of this {kind}"

    def json(self, name: str, *, needed: bool = False) -> Json:
        """Returns the JSON object in a file; empty if the file is missing and not needed."""
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
        """Returns one tensor in its stored dtype."""
        stored = self._stored[name]
        return read_tensor(self._file_of[stored], stored)

    @property
    def renamed(self) -> str:
        """Returns how the names in the files differ from those of a whole model; empty if they do not."""
        name, stored = next(iter(self._stored.items()))
        if name == stored or self.left_out:
            return ""
        return f"{stored} is read as {name}, and all other tensors likewise"

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
    """Divides the names, in order, into files of at most `most_bytes` each; a larger tensor is alone in its file."""
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
    """A written file of tensors: its name, its tensors in order, and its record for an index."""

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
    """Writes tensors, which come in the order of `entries`, into files. named: returns the name of a file from its
    number (from 0) and the number of files."""
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
    """Writes tensors, which come in the order of `entries`, into one file, or into shards and their index."""

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
    """Yields the next tensors, whose names must be `names`."""
    for name in names:
        found, tensor = next(tensors)
        assert found == name, f"{found} came where {name} belongs"
        yield tensor
        del tensor


def refuse_output(output: Path) -> None:
    """Raises ValueError if `output` exists and is not an empty folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output={output}: exists already; give another, or remove it")


def make_folder(output: Path, fill: Callable[[Path], None]) -> None:
    """Creates a folder that is complete as soon as it has its name. Follows a symbolic link.

    Raises:
        ValueError: `output` exists and is not an empty folder.
        OSError: a file cannot be written; nothing is left behind.
    """
    refuse_output(output)
    output = Path(os.path.realpath(output))
    # A name that no other process uses; short, however long the name of the output is.
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
