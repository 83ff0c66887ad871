"""How sharply are positions told apart? Granularity of neighbours and decay of scores (arXiv 2309.16039)."""

from dataclasses import dataclass, replace

import numpy

from model.position.advice.adjusted_base import decay, granularity
from model.position.settings import Values
from train.advise.base import Bases
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


@dataclass(frozen=True)
class Stretch:
    """Granularity of the rotation of pretraining, stretched `factor` times to `length` tokens.

    interpolated: with every frequency divided by the factor. ntk: at the NTK-aware base. first: at the first feasible
    base; None: it is not known.
    """

    case: Case
    length: int
    factor: float
    interpolated: float
    ntk: float
    first: float | None


def stretch_of(bases: Bases) -> Stretch | None:
    """Returns what stretching to the length of `bases` costs; None where it is not longer than in pretraining."""
    case, (base, length) = bases.case, bases.case.kind.pretrained
    if bases.ntk is None or not case.full:
        return None

    rope, factor = replace(case.kind.rope, base=0.0), bases.length / length

    def unscaled(base: float) -> Values:
        return rope.unscaled(base, case.head_dim)

    return Stretch(
        case,
        bases.length,
        factor,
        granularity(unscaled(base) / factor),
        granularity(unscaled(bases.ntk)),
        granularity(unscaled(bases.bound.first)) if bases.bound else None,
    )
