"""What a person sees while a run goes on: a progress bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from train.schedule import Schedule


def number(value: float | None, digits: int = 3) -> str:
    """A number for the console; a dash where there is none (not finite, or nothing was scored)."""
    return "-" if value is None else f"{value:.{digits}f}"


class Progress:
    """The console of the main rank; other ranks get one that says nothing."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        tokens_seen: int,
        total_tokens: int,
        seconds: float,
        speaks: bool,
    ) -> None:
        self._schedule = schedule
        self._seconds = seconds
        self._speaks = speaks
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
        """Show one optimizer step."""
        if not self._speaks:
            return
        stage = self._schedule.stage_at(row["tokens_seen"] - row["batch_tokens"])
        where = f"{stage.name} {stage.index + 1}/{len(self._schedule.stages)}"
        if not self._bar.disable:
            self._bar.set_description_str(f"{where} len {row['sequence_length']:,}", refresh=False)
            self._bar.set_postfix_str(f"loss {number(row['loss'])}", refresh=False)
            self._bar.update(row["batch_tokens"])
            return
        now = time.monotonic()
        last = row["tokens_seen"] >= self._total
        if now - self._said < self._seconds and not last:
            return
        self._said = now
        done = row["tokens_seen"] - self._first
        left = (self._total - row["tokens_seen"]) * (now - self._started) / max(1, done)
        self.line(
            f"step {row['step']:>6} | {where} | len {row['sequence_length']:,} | loss {number(row['loss'], 4)} | "
            f"norm {number(row['gradient_norm'], 2)} | lr {row['learning_rate']:.2e} | "
            f"{row['tokens_per_second']:,.0f} tok/s | {row['tokens_seen'] / self._total:4.0%} | "
            f"{_clock(left)} left"
        )

    def line(self, text: str) -> None:
        """Show one line without breaking the bar."""
        if self._speaks:
            self._bar.clear()
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
