"""Writes metrics.jsonl, evaluation.jsonl, config.yaml and summary.json of a run.

One JSON object a line, written at once. On resume rows beyond the checkpoint are dropped, so every step
stands once. Rows that a full disk refuses wait in memory and are written when there is room.
"""

import json
import math
import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.files import reason, write_durably

MOST_WAITING_BYTES = 64 << 20


class RowFile:
    """One append-only file of JSON rows; those of steps beyond `first_step` are dropped."""

    def __init__(self, path: Path, first_step: int, news: deque[str]) -> None:
        self._path = path
        self._news = news
        self._waiting = bytearray()
        self._problem = ""
        self._file = self._reopen(first_step)

    def append(self, row: dict[str, Any]) -> None:
        """Writes a row, or keeps it in memory until there is space on the disk.

        Raises:
            OSError: too many rows wait.
        """
        self._waiting += json.dumps(row, allow_nan=False).encode() + b"\n"
        self.catch_up()
        if len(self._waiting) > MOST_WAITING_BYTES:
            raise OSError(f"{self._path}: {len(self._waiting):,} bytes wait: {self._problem}")

    def sync(self) -> None:
        """Forces the rows to the disk. May be called from another thread than `append`.

        Raises:
            OSError: some could not be written yet, or the disk refuses.
        """
        if self._problem:
            raise OSError(f"{self._path}: rows are not written yet: {self._problem}")
        os.fsync(self._file)

    def close(self) -> None:
        """Writes the waiting rows and closes the file.

        Raises:
            OSError: rows are lost.
        """
        self.catch_up()
        lost = self._waiting.count(b"\n")
        os.close(self._file)
        if lost:
            raise OSError(f"{self._path}: the last {lost:,} rows are lost: {self._problem}")

    def catch_up(self) -> None:
        """Writes the waiting rows as far as there is space; the next call completes a partial line."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._file, self._waiting)]
        except OSError as error:
            if not self._problem:
                self._news.append(
                    f"warning: {self._path} cannot be written ({reason(error)}); its rows are kept in "
                    "memory until it can"
                )
            self._problem = reason(error)
        else:
            self._problem = ""

    def _reopen(self, first_step: int) -> int:
        if self._path.exists():
            raw = self._path.read_bytes()
            lines = raw.splitlines(keepends=True)
            rows = [_parsed(line) for line in lines]
            # The last line may have been torn by a kill.
            if None in rows[:-1]:
                kept = self._path.with_name(f"{self._path.name}.damaged")
                write_durably(kept, raw)
                self._news.append(
                    f"warning: {self._path}: {rows[:-1].count(None)} lines are no rows and left out; the "
                    f"file as it was is {kept.name}"
                )
            good = [
                line
                for line, row in zip(lines, rows, strict=True)
                if row is not None and row["step"] <= first_step
            ]
            write_durably(self._path, b"".join(good))
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Returns the row of a line; None if the line is damaged."""
    with suppress(ValueError, RecursionError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("step"), int) and line.endswith(b"\n"):
            return row
    return None


class RunLog:
    """Append-only logs of one run, written by the main rank only."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Opens the logs; rows of steps beyond `first_step` (already done) are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._news: deque[str] = deque()
        self._open(first_step)

    def _open(self, first_step: int) -> None:
        self._metrics = RowFile(self._folder / "metrics.jsonl", first_step, self._news)
        self._evaluation = RowFile(self._folder / "evaluation.jsonl", first_step, self._news)

    def step(self, row: dict[str, Any]) -> None:
        """Appends the row of one optimizer step."""
        self._metrics.append(row)
        self._evaluation.catch_up()

    def evaluation(self, row: dict[str, Any]) -> None:
        """Appends the row of one evaluation."""
        self._evaluation.append(row)

    def sync(self) -> None:
        """Forces the rows to the disk: a checkpoint must not outlive the rows before it.

        Raises:
            OSError: some could not be written yet, or the disk refuses.
        """
        self._metrics.sync()
        self._evaluation.sync()

    def rewind(self, step: int) -> None:
        """Drops the rows beyond `step`, for a rollback to that step."""
        self.close()
        self._open(step)

    def news(self) -> list[str]:
        """Returns the warnings since the last call, one line each."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def close(self) -> None:
        """Closes the files.

        Raises:
            OSError: rows could not be written to the end.
        """
        try:
            self._metrics.close()
        finally:
            self._evaluation.close()


def finite_or_null(value: Any) -> Any:
    """Returns `value` with every non-finite number replaced by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite_or_null(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite_or_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_config(folder: Path, text: str, step: int) -> None:
    """Writes the resolved configuration; keeps a different older one beside it, named by the step."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    if path.exists() and not (path.is_file() and path.read_bytes() == text.encode()):
        path.rename(folder / f"config_before_step_{step:08d}.yaml")
    if not path.exists():
        write_durably(path, text)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Writes or replaces summary.json."""
    write_durably(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
