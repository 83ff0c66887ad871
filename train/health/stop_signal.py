"""Turns SIGTERM, SIGINT or SIGUSR1 into a request to finish the step, save and end.

A second SIGINT ends the process at once. Ranks agree on the last step in `train/step.py`, so a signal
to one rank is enough.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """Context manager that records in `requested` whether a signal asked this process to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self.requested:
            return  # the run ends: another SIGTERM must not interrupt saving or reporting
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        # SIGTERM may arrive twice (from the scheduler and from torchrun); a second Ctrl-C is intended.
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
