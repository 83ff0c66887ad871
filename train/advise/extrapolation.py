"""How far does it extrapolate? The scaling laws of RoPE-based extrapolation (arXiv 2310.05209) for each rotary kind."""

import math
from contextlib import suppress
from dataclasses import dataclass

from model.position.advice.extrapolation import (
    Extrapolation,
    SmallBases,
    critical_dimension,
    extrapolation,
    small_bases,
    usable_length,
)
from train.advise.subject import Case


@dataclass(frozen=True)
class ExtrapolationOfCase:
    """The scaling laws for one case: of the base and length before, for training at the distance that layers see now.

    pretrained_dimension: critical dimension of pretraining. wave: T_extra, in tokens, where the first pair turns once
    that did not in pretraining; None: all have, or the rotation is scaled and not of a base alone. laws: None where
    they say nothing: a scaled rotation, fewer than 7 tokens, or fewer than before.
    """

    case: Case
    pretrained_dimension: int
    wave: float | None
    small: SmallBases
    laws: Extrapolation | None


def extrapolation_of(case: Case) -> ExtrapolationOfCase:
    """Returns the scaling laws for one case."""
    (base, length), sees = case.kind.pretrained, case.kind.sees
    rotated = 2 * len(case.radians)
    dimension = min(critical_dimension(base, case.width, length), rotated)
    now, laws, wave = case.plain_base, None, None
    if now is not None and sees >= length > 2.0 * math.pi:
        with suppress(
            OverflowError
        ):  # the critical base of a much longer training is beyond all numbers
            laws = extrapolation(
                now,
                pretrained_base=base,
                pretrained_length=length,
                tuned_length=sees,
                width=case.width,
            )
    if now is not None and dimension < rotated:
        wave = usable_length(now, case.width, dimension)
    return ExtrapolationOfCase(case, dimension, wave, small_bases(sees), laws)
