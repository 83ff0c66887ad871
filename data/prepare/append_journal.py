"""Append-only files with a journal, so that a killed job continues from its last commit.

Every commit flushes all files to the disk and then adds one line to the journal with the length of
each file and the checksum of the added bytes; the line begins with its own checksum. After a kill,
`resume` finds the last commit up to which all bytes match, truncates the files to it and
returns the state saved with it.
"""

import fcntl
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

READ_BYTES = 4 << 20

State = dict[str, Any]


class AppendJournal:
    """The append-only `files` of the journal `path`. identity: of the job; about: its description.

    `resume` discards a journal of another identity and its files.
    """

    def __init__(
        self, path: Path, files: Sequence[Path], identity: str, about: State | None = None
    ) -> None:
        self.path = path
        self.files = tuple(files)
        self._identity = identity
        self._about = {} if about is None else {"about": about}
        self._handles: list[BinaryIO] = []
        self._pending = [0] * len(self.files)
        self._journal: BinaryIO | None = None

    def resume(self) -> State | None:
        """Open the files at the last good commit; returns its state, or None for a fresh start.

        Raises ValueError if another process has the journal open.
        """
        self._journal = self.path.open("a+b")
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _at_work(self.path) from None
        self._journal.seek(0)
        lines = self._journal.readlines()
        commits = _parse(lines, self._identity)
        good, lengths = _good_commits(commits, self.files)
        kept = sum(len(line) for line in lines[: good + 1]) if commits is not None else 0
        for path, length in zip(self.files, lengths, strict=True):
            handle = path.open("r+b" if path.exists() else "w+b")
            handle.truncate(length)
            handle.seek(length)
            self._handles.append(handle)
        self._journal.truncate(kept)
        if not kept:
            self._write_line({"identity": self._identity, **self._about})
        if not commits or not good:
            return None
        state: State = commits[good - 1]["state"]
        return state

    def append(self, number: int, content: bytes | memoryview) -> None:
        """Append to file `number`."""
        self._handles[number].write(content)
        self._pending[number] = zlib.crc32(content, self._pending[number])

    def commit(self, state: State) -> None:
        """Flush everything appended so far to the disk, together with `state`."""
        for handle in self._handles:
            handle.flush()
            os.fsync(handle.fileno())
        lengths = [handle.tell() for handle in self._handles]
        self._write_line({"lengths": lengths, "crc32": self._pending, "state": state})
        self._pending = [0] * len(self.files)

    def _write_line(self, value: State) -> None:
        assert self._journal is not None
        content = json.dumps(value).encode()
        self._journal.write(b"%08x %b\n" % (zlib.crc32(content), content))
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def close(self) -> None:
        """Close all files; keep them and the journal."""
        for handle in self._handles:
            handle.close()
        if self._journal is not None:
            self._journal.close()


def read_header(path: Path) -> State | None:
    """The first line of a journal, with "identity" and perhaps "about"; {} if it is damaged, None if it is missing.

    Raises:
        ValueError: another process has the journal open.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _at_work(path) from None
        values = _values([file.readline()])
        return values[0] if values else {}


def _at_work(path: Path) -> ValueError:
    return ValueError(
        f"{path}: another process is at work on it; wait for it or use another output"
    )


def _parse(lines: list[bytes], identity: str) -> list[State] | None:
    """Commits of a journal up to its first damaged line; None for the journal of another job."""
    values = _values(lines)
    if not values or values[0].get("identity") != identity:
        return None
    return values[1:]


def _values(lines: list[bytes]) -> list[State]:
    values: list[State] = []
    for line in lines:
        checksum, _, content = line.partition(b" ")
        if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content[:-1]):
            break
        values.append(json.loads(content))
    return values


def _good_commits(commits: list[State] | None, files: Sequence[Path]) -> tuple[int, list[int]]:
    """The number of commits, from the first, that match the files, and the file lengths after them."""
    lengths = [0] * len(files)
    if not commits or not all(path.is_file() for path in files):
        return 0, lengths
    handles = [path.open("rb") for path in files]
    try:
        for number, commit in enumerate(commits):
            for at, handle in enumerate(handles):
                added = commit["lengths"][at] - lengths[at]
                if _checksum(handle, added) != commit["crc32"][at]:
                    return number, lengths
            lengths = list(commit["lengths"])
    finally:
        for handle in handles:
            handle.close()
    return len(commits), lengths


def _checksum(handle: BinaryIO, length: int) -> int:
    checksum = 0
    while length > 0:
        piece = handle.read(min(length, READ_BYTES))
        if not piece:
            return -1
        checksum = zlib.crc32(piece, checksum)
        length -= len(piece)
    return checksum
