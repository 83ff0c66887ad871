"""Lines that say how far a long evaluation is."""

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from model.at_step import AtStep
from model.predictions import Predictions
from train.objective import MicroBatch
from train.predictor import Predictor

SECONDS = 10.0


class Reporting:
    """A predictor that says every `SECONDS` how many tokens of a task are done.

    tell: takes the line. ranks: number of ranks that hold different tokens. clock: in seconds.
    """

    def __init__(
        self,
        inner: Predictor,
        tell: Callable[[str], None],
        *,
        ranks: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.at_once, self.evaluated_tokens = inner.at_once, inner.evaluated_tokens
        self._inner, self._tell, self._ranks, self._clock = inner, tell, ranks, clock
        self._task, self._expected, self._before, self._said = "", 0, 0, clock()

    def begin(self, task: str, expected: int) -> None:
        """Begins a task. expected: about how many tokens it has; 0: unknown."""
        self._task, self._expected = task, expected
        self._before, self._said = self.evaluated_tokens, self._clock()

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Tensor] | None:
        """See `Predictor`."""
        found = self._inner.token_losses(micro_batches, at)
        self._count()
        return found

    def predictions(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Predictions] | None:
        """See `Predictor`."""
        found = self._inner.predictions(micro_batches, at)
        self._count()
        return found

    def _count(self) -> None:
        self.evaluated_tokens = self._inner.evaluated_tokens
        if (now := self._clock()) - self._said < SECONDS:
            return
        self._said = now
        done = (self.evaluated_tokens - self._before) * self._ranks
        of_all = f" of about {self._expected:,}" if self._expected else ""
        self._tell(f"{self._task}: {done:,}{of_all} tokens done")
