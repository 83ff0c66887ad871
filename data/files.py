"""Atomic writes of files, and JSON files with a checksum of themselves.

After a kill or a loss of power, a file has its old content or the new one:

    write .NAME.HOST.PID.tmp -> fsync the file -> rename it to NAME -> fsync the folder

Several processes may write one name at the same time; the last one wins. A kill can leave the temporary file.

A sealed JSON file begins with a SHA-256 over every byte of the file:

    {
     "sha256": "9c56...",        computed with 64 zeros in this place
     "format": 2,
     ...

The checksum detects damage; it does not authenticate the file.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_HEAD = b'{\n "sha256": "'
_BLANK = b"0" * 64
_BODY = slice(len(_HEAD), len(_HEAD) + len(_BLANK))


class BrokenSeal(ValueError):
    """A sealed file has changed, or was never sealed."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new, empty file that takes the name `path` when the block ends without an error.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # frees space on a full disk
        raise
    sync_folder(path.parent)


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace the content of `path`.

    Raises:
        OSError: the file cannot be written; `path` is unchanged.
    """
    left = memoryview(content.encode() if isinstance(content, str) else content)
    with replacing(path) as file:
        while left:
            left = left[os.write(file.fileno(), left) :]


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that its file names survive a loss of power."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def leftovers(path: Path) -> list[Path]:
    """Temporary files of `path`: left by killed processes, or being written."""
    start = f".{path.name}."
    return sorted(
        found
        for found in path.parent.iterdir()
        if found.name.startswith(start) and found.suffix == ".tmp"
    )


def reason(error: OSError) -> str:
    """The text and the file name of an OSError, for a message."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def seal(content: Mapping[str, Any]) -> bytes:
    """The bytes of a sealed file with `content`, which must not have a key "sha256"."""
    assert "sha256" not in content
    blank = json.dumps({"sha256": _BLANK.decode(), **content}, indent=1).encode() + b"\n"
    return blank.replace(_BLANK, _digest(blank), 1)


def unseal(raw: bytes) -> dict[str, Any]:
    """The content of a sealed file, from its bytes.

    Raises:
        BrokenSeal: a byte has changed, the file is cut off, or it was never sealed.
    """
    found = _digest(raw[: _BODY.start] + _BLANK + raw[_BODY.stop :])
    if not raw.startswith(_HEAD) or raw[_BODY] != found:
        raise BrokenSeal(
            f"expected sha256 {raw[_BODY].decode('ascii', 'backslashreplace')!a}, found {found.decode()}"
            if raw.startswith(_HEAD)
            else "it does not begin with its sha256"
        )
    content: dict[str, Any] = json.loads(raw)
    del content["sha256"]
    return content


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).hexdigest().encode()
