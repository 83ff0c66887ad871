"""Held-out loss in the stage's mix: the mean over the sources, each with the weight that training gives it.

held_out_web   3.10 nats, weight 0.75 in the mix of the stage
held_out_code  2.30 nats, weight 0.25
mean           0.75 x 3.10 + 0.25 x 2.30 = 2.90 nats
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from train.evaluation.held_out import HeldOutLoss
from train.predictor import Predictor
from train.schedule.stages import Point

# Numbers that are added up; all other numbers, losses, are averaged.
_SUMS = ("tokens", "rows")
# The same in every row.
_KEPT = ("sequence_length", "start", "end")


class MixedHeldOut:
    """The task. parts: held-out loss of every source that has held-out documents, by its number among the sources."""

    sentence = staticmethod(HeldOutLoss.sentence)
    numbers = staticmethod(HeldOutLoss.numbers)
    table = staticmethod(HeldOutLoss.table)

    def __init__(self, parts: Mapping[int, HeldOutLoss], every_steps: int) -> None:
        self._parts, self.every_steps = parts, every_steps

    def evaluate(self, trainer: Predictor, point: Point) -> dict[str, Any]:
        """Returns the mean of the rows of all sources, and `weights`. Collective.

        A source that was evaluated just before is not evaluated again.

        Raises:
            ValueError, OSError: on every rank: one of them could not read a file.
        """
        rows = [part.latest(trainer, point) for part in self._parts.values()]
        weights = shares([point.stage.shape.weights[number] for number in self._parts])
        names = (part.source_name for part in self._parts.values())
        return mean_of(rows, weights) | {"weights": dict(zip(names, weights, strict=True))}


def shares(weights: Sequence[float]) -> list[float]:
    """Returns the weights, summing to 1; equal ones if the mix has none of these sources."""
    total = sum(weights)
    return [one / total if total else 1 / len(weights) for one in weights]


def mean_of(rows: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """Returns the weighted mean of rows of held-out loss, bucket by bucket; `None` where no weighted row has one."""
    found: dict[str, Any] = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if name == "position_buckets":
            found[name] = [mean_of(each, weights) for each in zip(*values, strict=True)]
        elif name in _KEPT:
            found[name] = first
        elif name in _SUMS:
            found[name] = sum(values)
        else:
            found[name] = _mean(zip(values, weights, strict=True))
    return found


def _mean(pairs: Iterable[tuple[float | None, float]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if known else None
