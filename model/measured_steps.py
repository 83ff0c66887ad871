"""Which forwards count in sums over a measured step: the first one of every micro-batch, and no other.

What runs within `counting` counts, if the step is measured and gradients are on. So neither a recomputation in the
backward nor a forward without gradients (an evaluation) counts a second time.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class MeasuredSteps:
    """The base of sums over the tokens of a step; these change nothing that training reads."""

    def __init__(self) -> None:
        self._wanted = self.counts = False

    def begin(self) -> None:
        """Measures from here until `end`."""
        self._wanted = True

    def end(self) -> None:
        """Measures no more."""
        self._wanted = False

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within it a forward counts, if it is one of training."""
        self.counts = self._wanted and torch.is_grad_enabled()
        try:
            yield
        finally:
            self.counts = False
