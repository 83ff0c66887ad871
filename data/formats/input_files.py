"""Lists the input files in a fixed order, counts the files that are passed over, and detects changed files."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data.printable import Mistakes

# Suffixes of files in a folder that are not documents: passed over and counted.
BINARY_SUFFIXES = frozenset([
    ".a", ".bin", ".bmp", ".class", ".db", ".dll", ".dylib", ".egg", ".exe", ".gif", ".ico", ".idx", ".jpeg",
    ".jpg", ".mo", ".mp3", ".mp4", ".npy", ".npz", ".o", ".otf", ".pdf", ".pickle", ".pkl", ".png", ".pt",
    ".pth", ".pyc", ".pyd", ".pyo", ".safetensors", ".so", ".sqlite", ".ttf", ".wav", ".webp", ".whl",
    ".woff", ".woff2",
])  # fmt: skip
# A folder with one of these files was written by `save_to_disk` of Hugging Face's datasets.
DATASET_DICT, DATASET_INFO = "dataset_dict.json", "dataset_info.json"
A_DATASET = (
    "is a dataset of Hugging Face (Arrow), which is not read; write it as JSON lines first:"
    ' datasets.load_from_disk(FOLDER).to_json("texts.jsonl")'
)


@dataclass
class FileList:
    """The files and folders of the inputs, in order.

    files: to be read, one after the other. refused: those of them that cannot be read, and why (datasets, folders
    without a document). passed_over: number of files and links in folders that are not read, by kind.
    """

    files: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("binary", "hidden", "linked_folders", "own"), 0)
    )


class Stamp(NamedTuple):
    """Size and modification time (ns) of a file, to detect changes; zeros for a missing file."""

    size: int
    modified: int


@dataclass(frozen=True)
class Inputs:
    """The input files in order, with the stamps of their first look-up.

    refused, passed_over: as in FileList. repeated: number of files that are another of the files under a second name.
    """

    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    refused: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    repeated: int = 0

    @classmethod
    def found(cls, listed: FileList) -> "Inputs":
        """Looks the files up and stores their stamps."""
        stamps: list[Stamp] = []
        seen: set[tuple[int, int]] = set()
        repeated = 0
        for name in listed.files:
            stamp, identity = _look(name)
            stamps.append(stamp)
            repeated += identity in seen
            if identity is not None:
                seen.add(identity)
        return cls(tuple(listed.files), tuple(stamps), listed.refused, listed.passed_over, repeated)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of files that are not read or read twice, under the keys of a manifest."""
        found = dict(self.passed_over)
        return {"passed_over": found.pop("binary", 0), **found, "repeated": self.repeated}

    @property
    def total_bytes(self) -> int:
        """Bytes of all files as stored."""
        return sum(stamp.size for stamp in self.stamps)

    def refuse_changed(self) -> None:
        """Raise ValueError if the size or time of a file has changed."""
        for name, stamp in zip(self.files, self.stamps, strict=True):
            if stamp_of(name) != stamp:
                raise ValueError(
                    f"{name}: changed while it was read; run the same command again when nobody"
                    " writes to it"
                )


def list_files(inputs: Sequence[str | Path], role: Callable[[str], str] = lambda _: "") -> FileList:
    """Files in the order given, folders walked recursively in the order of their sorted names.

    role: returns the role of a path, see `Roles` in data/tokens/prefix.py. Paths with role "output", "tokens" or "own"
    are not inputs; "output" is not counted, because every start adds such files.

    In folders, hidden names (".git") and BINARY_SUFFIXES are passed over, links to folders are not followed; all are
    counted. All other paths are listed, including those that cannot be read (a pipe, a broken link, a folder without
    permission), which the reader reports. A file named explicitly is listed, unless it has a role.

    Raises:
        Mistakes: paths that are neither file nor folder, token files, files that are named twice.
    """
    listed = FileList()
    mistakes: list[str] = []
    for given in map(str, inputs):
        if os.path.isfile(given):  # noqa: PTH113 (Path raises if a name is too long or access is denied)
            _add_file(given, role(given), listed, mistakes)
        elif os.path.isdir(given):  # noqa: PTH112
            _add_folder(given, role, listed)
        else:
            is_there = os.path.lexists(given)
            kind = "neither a file nor a folder" if is_there else "no such file or folder"
            mistakes.append(f"input={given}: {kind}; name files, or folders of them")
    mistakes += _named_twice(listed.files)
    if mistakes:
        raise Mistakes(*mistakes)
    return listed


def _add_file(path: str, role: str, listed: FileList, mistakes: list[str]) -> None:
    if not role:
        listed.files.append(path)
    elif role == "own":
        listed.passed_over["own"] += 1
    elif role == "tokens":
        mistakes.append(
            f"input={path}: belongs to token files, which hold no text; train on them with"
            " data.sources.NAME.prefix, or name the documents that they were made of"
        )


def _add_folder(top: str, role: Callable[[str], str], listed: FileList) -> None:
    before, passed = len(listed.files), sum(listed.passed_over.values())
    for path in _walk(top, role, listed):
        found = "" if path in listed.refused else role(path)
        if found:
            listed.passed_over["own"] += found != "output"
        elif os.path.splitext(path)[1].lower() in BINARY_SUFFIXES:  # noqa: PTH122
            listed.passed_over["binary"] += 1
        else:
            listed.files.append(path)
    if len(listed.files) == before:
        passed = sum(listed.passed_over.values()) - passed
        names = f" ({passed} names in it are passed over)" if passed else ""
        listed.refused[top] = f"holds no document{names}; name files or folders that do"
        listed.files.append(top)


def _walk(top: str, role: Callable[[str], str], listed: FileList) -> Iterator[str]:
    """Paths of files below `top`; also of folders that cannot be listed, and of datasets."""
    closed: list[str] = []
    join = os.path.join  # per file: a Path is 10x slower
    for folder, folders, names in os.walk(top, onerror=lambda e: closed.append(str(e.filename))):
        yield from closed
        closed.clear()
        if DATASET_DICT in names or (
            DATASET_INFO in names and any(name.endswith(".arrow") for name in names)
        ):
            listed.refused[folder] = A_DATASET
            folders.clear()
            yield folder
            continue
        hidden = [name for name in (*folders, *names) if name.startswith(".")]
        listed.passed_over["hidden"] += sum(role(join(folder, name)) != "output" for name in hidden)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = sum(os.path.islink(join(folder, name)) for name in folders)  # noqa: PTH114
        listed.passed_over["linked_folders"] += links
        for name in sorted(names):
            if not name.startswith("."):
                yield join(folder, name)
    yield from closed


def _named_twice(files: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    twice = []
    for name in files:
        absolute = os.path.abspath(name)  # noqa: PTH100
        if absolute in seen:
            twice.append(f"input={name}: is named twice; name every file once")
        seen.add(absolute)
    return twice


def _look(path: str) -> tuple[Stamp, tuple[int, int] | None]:
    """Stamp of a file, and its device and inode, which are the same under every name; None if it cannot be read."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return Stamp(0, 0), None
    if stat.S_ISDIR(status.st_mode):
        return Stamp(0, 0), None
    return Stamp(status.st_size, status.st_mtime_ns), (status.st_dev, status.st_ino)


def stamp_of(path: str) -> Stamp:
    """Size and time of a file; zeros if it is missing."""
    return _look(path)[0]


def size_of(path: str) -> int:
    """Bytes of a file; 0 if it is missing."""
    return stamp_of(path).size
