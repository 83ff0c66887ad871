"""Console output of a run: a progress bar on a terminal, otherwise a line at intervals.

The lines also go to the run's log.txt, with the time.
"""

import contextlib
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from train.records.rank_log import now
from train.schedule.stages import Schedule


def number(value: float | None, digits: int = 3) -> str:
    """Formats a number for the console; a dash for None (not finite, or nothing was scored)."""
    return "-" if value is None else f"{value:.{digits}f}"


def say(text: str, log: Path) -> None:
    """Writes one line to the console and log.txt; for the main rank, before there is a `Progress`."""
    _keep(text, log)
    _say(text)


def say_last(words: str, log: Path) -> None:
    """Writes the closing words to stdout, and their first line, how the run ended, to log.txt; for the main rank."""
    _keep(words.strip().partition("\n")[0], log)
    sys.stdout.write(words)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _keep(text: str, log: Path) -> None:
    with contextlib.suppress(OSError), log.open("a") as file:  # a full disk: not here
        file.write(f"{now()} {text}\n")


class Progress:
    """The console and log.txt of the main rank; on other ranks it writes nothing."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        tokens_seen: int,
        total_tokens: int,
        seconds: float,
        speaks: bool,
        log: Path | None = None,
    ) -> None:
        self._schedule = schedule
        self._seconds = seconds
        self._speaks = speaks
        self._log = log
        self._total = total_tokens
        self._said = 0.0
        self._started = time.monotonic()
        self._first = tokens_seen
        self._bar = tqdm(
            total=total_tokens,
            initial=tokens_seen,
            unit="tok",
            unit_scale=True,
            dynamic_ncols=True,
            smoothing=0.05,
            disable=not (speaks and sys.stderr.isatty()),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}, {rate_fmt}]{postfix}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def step(self, row: dict[str, Any]) -> None:
        """Shows one optimizer step."""
        if not self._speaks:
            return
        stage = self._schedule.stage_at(row["tokens_seen"] - row["batch_tokens"])
        where = f"{stage.name} {stage.index + 1}/{len(self._schedule.stages)}"
        if not self._bar.disable:
            self._bar.set_description_str(f"{where} len {row['sequence_length']:,}", refresh=False)
            self._bar.set_postfix_str(f"loss {number(row['loss'])}", refresh=False)
            self._bar.update(row["tokens_seen"] - self._bar.n)  # a rollback takes it back
        moment = time.monotonic()
        last = row["tokens_seen"] >= self._total
        if moment - self._said < self._seconds and not last:
            return
        self._said = moment
        done = row["tokens_seen"] - self._first
        left = (self._total - row["tokens_seen"]) * (moment - self._started) / max(1, done)
        text = (
            f"step {row['step']:>6} | {where} | len {row['sequence_length']:,} | loss {number(row['loss'], 4)} | "
            f"norm {number(row['gradient_norm'], 2)} | lr {row['learning_rate']:.2e} | "
            f"{row['tokens_per_second']:,.0f} tok/s | {_mfu(row)}{row['tokens_seen'] / self._total:4.0%} | "
            f"{_clock(left)} left"
        )
        self._keep(text)
        if self._bar.disable:
            _say(text)

    def line(self, text: str) -> None:
        """Writes one line without breaking the progress bar."""
        if self._speaks:
            self._keep(text)
            self._bar.clear()
            _say(text)

    def _keep(self, text: str) -> None:
        if self._log is not None:
            _keep(text, self._log)


def _mfu(row: dict[str, Any]) -> str:
    return f"MFU {row['mfu']:.1%} | " if row.get("mfu") is not None else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
