"""Files written whole, and JSON files that know whether they are whole.

After a kill or a loss of power, a name has its old content or the new one:

    write .NAME.HOST.PID.tmp -> fsync the file -> rename it to NAME -> fsync the folder

Several processes may write one name at the same time; the last one wins. A kill can leave the temporary file.

A sealed JSON file begins with a SHA-256 over every byte of the file:

    {
     "sha256": "9c56...",        computed with 64 zeros in this place
     "format": 2,
     ...

The seal finds damage; it does not prove who wrote the file.
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
    """A file is not what was sealed."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new, empty file that takes the name `path` when the block ends without an error.

    Raises:
        OSError: the file system refuses; `path` is as it was.
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
            temporary.unlink()  # a full disk gets its room back
        raise
    sync_folder(path.parent)


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace the content of `path`.

    Raises:
        OSError: the file system refuses; `path` is as it was.
    """
    left = memoryview(content.encode() if isinstance(content, str) else content)
    with replacing(path) as file:
        while left:
            left = left[os.write(file.fileno(), left) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def leftovers(path: Path) -> list[Path]:
    """Temporary files that killed processes left beside `path`, or that are being written."""
    start = f".{path.name}."
    return sorted(
        found
        for found in path.parent.iterdir()
        if found.name.startswith(start) and found.suffix == ".tmp"
    )


def reason(error: OSError) -> str:
    """Why the file system refuses, and where, in a few words."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def seal(content: Mapping[str, Any]) -> bytes:
    """The bytes of a sealed file that holds `content`, which has no "sha256" of its own."""
    assert "sha256" not in content
    blank = json.dumps({"sha256": _BLANK.decode(), **content}, indent=1).encode() + b"\n"
    return blank.replace(_BLANK, _digest(blank), 1)


def unseal(raw: bytes) -> dict[str, Any]:
    """The content that was sealed in the file of these bytes.

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
