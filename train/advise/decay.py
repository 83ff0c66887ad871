"""How sharply are positions told apart? Granularity of neighbours and decay of scores (arXiv 2309.16039)."""

from dataclasses import dataclass

import numpy

from model.position.advice.adjusted_base import decay, granularity
from train.advise.subject import Case

DISTANCES = (1, 100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Decay:
    """Scores of a query and a key of ones, 2 B(m) / sqrt(head_dim), by distance in tokens, and the mean sine of one
    token's turn."""

    case: Case
    granularity: float
    scores: dict[int, float]


def decay_of(case: Case) -> Decay:
    """Returns the decay of one case at the distances that its layers see."""
    seen = [distance for distance in (0, *DISTANCES) if distance < case.kind.sees]
    found = decay(case.head_radians(), numpy.array(seen, dtype=numpy.float64))
    scores = {distance: float(score) for distance, score in zip(seen, found, strict=True)}
    return Decay(case, granularity(case.radians), scores)
