"""Progress of a command that reads inputs: a bar on a terminal, a line every 10 seconds elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Shows the bytes read of `total`, and a text about the results so far.

    On a terminal one line is redrawn; elsewhere a whole line is written at most every
    SECONDS_BETWEEN_LINES, without a carriage return.
    """

    def __init__(self, action: str, total: int, *, shown: bool, done: int = 0) -> None:
        self._action = action
        self._total = total
        self._done = done
        self._shown = shown
        self._words = ""
        self._last = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                desc=action,
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int, words: str = "") -> None:
        """Adds `count` bytes that were read; `words`: text about the results so far."""
        self._done += count
        self._words = words
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self.say(self._line())

    def _line(self) -> str:
        share = 100 * self._done // max(1, self._total)
        of = f"{in_bytes(self._done)} of {in_bytes(self._total)} read"
        return f"{self._action}: {share} %, {of}" + (f"; {self._words}" if self._words else "")

    def say(self, line: str) -> None:
        """Writes a separate line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()


def in_bytes(count: int) -> str:
    """A number of bytes with a unit: 999 B, 1.5 kB, 12.3 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.95 or unit == "TB":
            break
        size /= 1000
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
