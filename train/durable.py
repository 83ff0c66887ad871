"""Files that a kill or a loss of power leaves whole: the old content or the new one."""

import os
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a kill leaves either the old or the new content.

    Raises:
        OSError: the file system refuses; `path` is as it was.
    """
    left = memoryview(content.encode() if isinstance(content, str) else content)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()  # a full disk gets its room back
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def reason(error: OSError) -> str:
    """Why the file system refuses, and where, in a few words."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
