"""How long a rank may wait for its peers, by what it waits for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

# Groups by purpose (parallel/mesh.py), as users name them in `parallel.timeouts`.
_NAMED = {"window": "sequence", "zero": "data"}


@dataclass(frozen=True)
class Timeouts:
    """Seconds: for every axis, for named ones, and for all until the first step of a layout is done."""

    seconds: float
    by_axis: Mapping[str, float] = field(default_factory=dict)
    first_step: float = 0.0

    def of(self, purpose: str, *, started: bool) -> float:
        """The limit for a group of this purpose, before or after the first step."""
        limit = self.by_axis.get(_NAMED.get(purpose, purpose), self.seconds)
        # A checkpoint is written beside the training, and ranks with little of it wait for those with much.
        patient = purpose == "checkpoint" and purpose not in self.by_axis
        return max(limit, self.first_step) if patient or not started else limit

    def of_backend(self, purpose: str, *, started: bool) -> timedelta:
        """What the backend itself is told: later than the watch, which can say who is missing."""
        return timedelta(seconds=1.5 * self.of(purpose, started=started))


def axis_name(purpose: str) -> str:
    """What users call the axis of a group of this purpose."""
    return _NAMED.get(purpose, purpose)
