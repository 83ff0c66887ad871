"""Log files of a run, for finding out what happened.

    log.txt                 the main rank's console, with times: read this first
    ranks/rank_00003.log    one file per rank: its phases, errors and stacks
    ranks/rank_00003.json   after a hang: torch's flight record of the last collectives
    error.txt               the first rank that failed: when, where, the traceback

`kill -USR2` of a rank writes the stacks of all its threads to its file; the run goes on.
"""

import contextlib
import faulthandler
import json
import os
import signal
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO


class RankLog:
    """The log files of one rank. Errors of writing are ignored: a full disk must not end a run here."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._file: TextIO | None = None
        with contextlib.suppress(OSError):
            (folder / "ranks").mkdir(parents=True, exist_ok=True)
            self._file = (folder / "ranks" / f"rank_{rank:05d}.log").open("a", buffering=1)
            faulthandler.enable(self._file)
            faulthandler.register(signal.SIGUSR2, self._file, all_threads=True)
        self.line(f"rank {rank} on {socket.gethostname()}, process {os.getpid()}")

    def line(self, text: str) -> None:
        """Writes one line with the time into this rank's file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(f"{now()} {text}\n")

    def hang(self, sentence: str, record: list[dict[str, Any]]) -> None:
        """Writes the stacks of all threads and the flight record."""
        self.line(sentence)
        if self._file is not None:
            faulthandler.dump_traceback(self._file, all_threads=True)
        with contextlib.suppress(OSError):
            path = self._folder / "ranks" / f"rank_{self._rank:05d}.json"
            path.write_text(json.dumps(record))

    def error(self, text: str) -> bool:
        """Writes the error that ended this rank; returns whether it is the first of the run, written to error.txt."""
        self.line(text)
        head = f"{now()} rank {self._rank} on {socket.gethostname()}, process {os.getpid()}\n"
        try:
            with (self._folder / "error.txt").open("x") as file:
                file.write(f"{head}{text}\n")
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Closes the file."""
        faulthandler.unregister(signal.SIGUSR2)
        faulthandler.disable()
        if self._file is not None:
            self._file.close()
            self._file = None


def put_error_aside(folder: Path) -> None:
    """Renames the error.txt of an earlier start. Main rank only, before anything can fail."""
    path = folder / "error.txt"
    with contextlib.suppress(OSError):
        when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        path.rename(folder / f"error_{when:%Y-%m-%dT%H-%M-%S}.txt")


def now() -> str:
    """Returns the current time (UTC) for log lines."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
