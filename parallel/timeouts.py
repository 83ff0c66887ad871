"""How long a rank may wait for its peers, by process group."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

# Groups by purpose (parallel/mesh.py), as users name them in `parallel.timeouts`.
_NAMED = {"window": "sequence", "zero": "data"}


@dataclass(frozen=True)
class Timeouts:
    """Timeouts in seconds.

    seconds: for every axis. by_axis: overrides for single axes. first_step: the least until the first step is done.
    """

    seconds: float
    by_axis: Mapping[str, float] = field(default_factory=dict)
    first_step: float = 0.0

    def of(self, purpose: str, *, started: bool) -> float:
        """Returns the limit for a group of this purpose. started: whether the first step of the layout is done."""
        limit = self.by_axis.get(_NAMED.get(purpose, purpose), self.seconds)
        # A checkpoint is written during training, and ranks that write little wait for those that write much.
        patient = purpose == "checkpoint" and purpose not in self.by_axis
        return max(limit, self.first_step) if patient or not started else limit

    def of_backend(self, purpose: str, *, started: bool) -> timedelta:
        """Returns the backend's timeout: longer than the watch's, whose message names the missing rank."""
        return timedelta(seconds=1.5 * self.of(purpose, started=started))


def axis_name(purpose: str) -> str:
    """Returns the axis of a group of this purpose, as named in `parallel.timeouts`."""
    return _NAMED.get(purpose, purpose)
