"""Checks that all hosts write into one output folder: the main rank writes a token, the others must find it.

All ranks write checkpoints into one folder. On a host with another disk mounted there, or none, parts of them
would be lost without an error.
"""

import contextlib
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

# Seconds to wait for a network file system to show a new file.
PATIENCE = 10.0


@dataclass(frozen=True)
class Token:
    """Name and content of a file in the run's folder."""

    name: str
    content: str


def leave_token(folder: Path) -> Token:
    """Writes a new token into the run's folder, which is created if needed.

    Raises:
        OSError: the folder cannot be written.
    """
    token = Token(f".preflight-{secrets.token_hex(6)}", secrets.token_hex(8))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / token.name, token.content)
    return token


def remove_token(folder: Path, token: Token | None) -> None:
    """Removes the file that `leave_token` wrote."""
    if token is not None:
        with contextlib.suppress(OSError):
            (folder / token.name).unlink()


def token_problem(folder: Path, token: Token | None, rank: int) -> str:
    """Returns why this host cannot write to the same `folder`; "" if it can, or if there is no token."""
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
