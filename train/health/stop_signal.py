"""SIGTERM, SIGINT or SIGUSR1 -> "finish this step, save, end".

A second SIGINT takes effect at once. Ranks agree on the step to stop at in `train/step.py`,
so one rank's signal is enough.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignal:
    """While entered, remembers whether this process was asked to stop."""

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
            return  # the run ends: a further SIGTERM may not cut its saving or its last words short
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        # SIGTERM may arrive twice (from the scheduler and from torchrun); a second Ctrl-C is meant.
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
