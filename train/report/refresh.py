"""Writes the page of a running run: at its start, refreshed after its evaluations, and at its end.

A page takes a fraction of a second, more only if the logs are long. A page that cannot be written never fails the run.
Once a page takes over CHEAP_SECONDS, refreshes are skipped while all pages together exceed SHARE of the run's time.
"""

import time
from collections import deque
from pathlib import Path

from train.report.page import write_report

# A page is always written if the last took at most these seconds, else only within this share of the run's time.
CHEAP_SECONDS = 2.0
SHARE = 0.01


class LivePage:
    """Writes report.html of one run; used on the main rank only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._news: deque[str] = deque()
        self._began = time.monotonic()
        self._spent = self._last = 0.0

    def refresh(self) -> None:
        """Writes the page of a running run, unless writing pages has taken too much of its time."""
        spare = SHARE * (time.monotonic() - self._began)
        if self._last <= CHEAP_SECONDS or self._spent <= spare:
            self._write(running=True)

    def finish(self) -> None:
        """Writes the page of a run that has ended."""
        self._write(running=False)

    def news(self) -> list[str]:
        """Returns the warnings since the last call, one line each."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def _write(self, *, running: bool) -> None:
        began = time.monotonic()
        try:
            write_report(self._folder, running=running)
        except Exception as error:  # a failure to write the page must never end the run
            words = " ".join(f"{type(error).__name__}: {error}".split())
            self._news.append(
                f"warning: {self._folder / 'report.html'} could not be written ({words}); the run goes on"
            )
        finally:
            self._last = time.monotonic() - began
            self._spent += self._last
