"""Which files an input names, in a fixed order, and whether they stayed as they were."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Files that a folder may hold and that are no documents: passed over, and counted.
BINARY_SUFFIXES = frozenset(
    [
        ".a",
        ".bin",
        ".bmp",
        ".class",
        ".db",
        ".dll",
        ".dylib",
        ".egg",
        ".exe",
        ".gif",
        ".ico",
        ".idx",
        ".jpeg",
        ".jpg",
        ".mo",
        ".mp3",
        ".mp4",
        ".npy",
        ".npz",
        ".o",
        ".otf",
        ".pdf",
        ".pickle",
        ".pkl",
        ".png",
        ".pt",
        ".pth",
        ".pyc",
        ".pyd",
        ".pyo",
        ".safetensors",
        ".so",
        ".sqlite",
        ".ttf",
        ".wav",
        ".webp",
        ".whl",
        ".woff",
        ".woff2",
    ]
)


class FileList(NamedTuple):
    """Input files in a fixed order, and how many files of folders were passed over as binary."""

    files: list[str]
    passed_over: int


class Stamp(NamedTuple):
    """By what a change of a file is noticed; zeros for one that is not there."""

    size: int
    modified: int


@dataclass(frozen=True)
class Inputs:
    """Files as they were found, in order."""

    files: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    # Files of folders that are no documents by their suffix.
    passed_over: int = 0

    @classmethod
    def found(cls, files: Sequence[str], passed_over: int = 0) -> "Inputs":
        """These files as they are now."""
        return cls(tuple(files), tuple(map(stamp_of, files)), passed_over)

    def refuse_changed(self) -> None:
        """Raise ValueError if a file is no longer as it was found."""
        for name, stamp in zip(self.files, self.stamps, strict=True):
            if stamp_of(name) != stamp:
                raise ValueError(
                    f"{name}: changed while it was read; run the same command again when nobody"
                    " writes to it"
                )


def list_files(
    inputs: Sequence[str | Path], is_own: Callable[[str], bool] = lambda _: False
) -> FileList:
    """Files in the order given, folders walked recursively in the order of their sorted names.

    is_own: says of a path that it is no input at all, as the files of a prefix are (data/tokens/prefix.py).

    In folders, hidden names (".git") and BINARY_SUFFIXES are passed over, links to folders are not
    followed. Everything else is listed, also what is no readable file (a pipe, a link to nothing, a
    folder that may not be entered): the reader says so. A file named explicitly is always taken.

    Raises:
        ValueError: a path that is neither file nor folder, or a file that is named twice.
    """
    files: list[str] = []
    passed_over = 0
    for given in map(str, inputs):
        if os.path.isfile(given):  # noqa: PTH113 (Path raises where a name is too long or a folder closed)
            files += [given] if not is_own(given) else []
        elif os.path.isdir(given):  # noqa: PTH112
            for full in _walk(given):
                if is_own(full):
                    continue
                if os.path.splitext(full)[1].lower() in BINARY_SUFFIXES:  # noqa: PTH122
                    passed_over += 1
                else:
                    files.append(full)
        else:
            is_there = os.path.lexists(given)
            kind = "neither a file nor a folder" if is_there else "no such file or folder"
            raise ValueError(f"input={given}: {kind}; name files, or folders of them")
    _refuse_twice(files)
    return FileList(files, passed_over)


def _walk(top: str) -> Iterator[str]:
    """Paths below `top`; a folder that cannot be listed comes as if it were a file."""
    closed: list[str] = []
    for folder, folders, names in os.walk(top, onerror=lambda e: closed.append(str(e.filename))):
        yield from closed
        closed.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(folder, name)  # noqa: PTH118 (called per file: a Path is 10x slower)
    yield from closed


def _refuse_twice(files: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in files:
        absolute = os.path.abspath(name)  # noqa: PTH100
        if absolute in seen:
            raise ValueError(f"input={name}: is named twice; name every file once")
        seen.add(absolute)


def stamp_of(path: str) -> Stamp:
    """Size and time of a file; zeros where it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return Stamp(0, 0)
    return Stamp(status.st_size, status.st_mtime_ns)


def size_of(path: str) -> int:
    """Bytes of a file; 0 where it is not there."""
    return stamp_of(path).size
