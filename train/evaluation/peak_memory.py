"""Peak memory of one rank: of training, and of an evaluation apart from it.

A GPU's allocator counts the peak since it was last told to: both peaks are exact. The system counts the peak of a
process since its start (`ru_maxrss`), which nothing resets:

    peak of the process   4 GiB | evaluation: 6 GiB | training: 6 GiB | training: 7 GiB
    training              4 GiB |                   |        4 GiB    |        7 GiB
    evaluation                  |             6 GiB |                 |

So an evaluation that raises the peak has it for its own. One that does not needed at most as much as training had
before: it has no number. While the peak is an evaluation's, training's is the one from before: training since then has
needed at most the evaluation's.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class ApartPeak:
    """Peak memory in bytes of what ran apart; None: not above the peak of the process before it."""

    bytes: int | None = None


class PeakMemory:
    """The peaks of one rank in bytes."""

    def __init__(self) -> None:
        # Peak of training before the last evaluation, and what is no peak of training: the highest one of evaluations.
        self._training = self._apart = 0

    def of_training(self, device: torch.device) -> int:
        """Returns the peak of all but what ran `apart`: of the GPU, or of the process without one."""
        peak = _peak(device)
        if device.type == "cuda":
            return max(self._training, peak)
        return peak if peak > self._apart else self._training

    @contextmanager
    def apart(self, device: torch.device) -> Iterator[ApartPeak]:
        """Within it memory counts for what is returned, not for training."""
        found = ApartPeak()
        before, self._training = _peak(device), self.of_training(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            yield found
        finally:
            peak = _peak(device)
            if device.type == "cuda":
                found.bytes = peak
                torch.cuda.reset_peak_memory_stats(device)
            elif peak > before:
                found.bytes = self._apart = peak


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
