"""Whether all hosts write into one output folder: the main rank leaves a token, the others must find it.

Checkpoints are written by all ranks into one folder. On a host where another disk is mounted there, or none,
parts of them would be lost without an error.
"""

import contextlib
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

# Seconds that a network file system may take to show a new file.
PATIENCE = 10.0


@dataclass(frozen=True)
class Token:
    """A file in the run's folder, and what is in it."""

    name: str
    content: str


def leave_token(folder: Path) -> Token:
    """Write a new token into the run's folder, which is made where it is not there.

    Raises:
        OSError: it cannot be written.
    """
    token = Token(f".preflight-{secrets.token_hex(6)}", secrets.token_hex(8))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / token.name, token.content)
    return token


def remove_token(folder: Path, token: Token | None) -> None:
    """Remove what `leave_token` wrote."""
    if token is not None:
        with contextlib.suppress(OSError):
            (folder / token.name).unlink()


def token_problem(folder: Path, token: Token | None, rank: int) -> str:
    """Why this host may not take part in writing to `folder`; "" if it may, or there is no token."""
    if token is None:
        return ""
    path, deadline = folder / token.name, time.monotonic() + PATIENCE
    while not _holds(path, token.content):
        if time.monotonic() > deadline:
            return (
                f"{folder.absolute()} is not the folder that the main rank writes to: its file {token.name} did "
                f"not appear in {PATIENCE:g} s; mount the same file system on every host, or start in the same "
                "folder"
            )
        time.sleep(0.05)
    beside = folder / f"{token.name}-{rank}"
    try:
        _write(beside, socket.gethostname())
        beside.unlink()
    except OSError as error:
        return f"{folder.absolute()} cannot be written on this host ({error.strerror}); grant it to this user"
    return ""


def _holds(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except OSError:
        return False


def _write(path: Path, content: str) -> None:
    with path.open("x") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
