"""Scaling laws of RoPE-based extrapolation: how far a base carries a model that was trained at some length.

A dimension whose pair completes a turn within the training length T is trained on all its angles; with the base b of
pretraining these are the first d_extra of d dimensions, the critical dimension:

    d_extra = 2 ceil(d / 2 * log_b(T / 2 pi))

A base above the critical base of fine-tuning carries up to the wavelength of the critical dimension; a base below it
carries no farther than the length of fine-tuning, but for small bases, where more dimensions have seen a quarter, half
or all of a period.

Source: arXiv 2310.05209. Lengths are in tokens; d is the width of the rotation.
"""

import math
from dataclasses import dataclass


def critical_dimension(base: float, width: int, length: int) -> int:
    """d_extra: dimensions whose pair completes a turn over `length` tokens, at most `width`.

    base: of the training, above 1. width: of the rotation. length: of the training or, in a windowed layer, its
    window.
    """
    return min(unclipped_critical_dimension(base, width, length), width)


def unclipped_critical_dimension(base: float, width: int, length: int) -> int:
    """d_extra as the formula has it, which exceeds `width` for small bases; 0 if no pair completes a turn."""
    return max(0, 2 * math.ceil(width / 2 * math.log(length / (2.0 * math.pi)) / math.log(base)))


def critical_base(base: float, length: int, tuned_length: int) -> float:
    """beta_0 = base ** log_{T / 2 pi}(T' / 2 pi): the base above which fine-tuning at T' extrapolates by its base.

    base, length: of pretraining, T above 2 pi tokens. tuned_length: T', of fine-tuning.
    """
    trained, tuned = (math.log(tokens / (2.0 * math.pi)) for tokens in (length, tuned_length))
    return float(base ** (tuned / trained))


def usable_length(base: float, width: int, critical: int) -> float:
    """T_extra = 2 pi base ** (d_extra / d) in tokens, of a base above the critical one.

    critical: critical dimension of PRETRAINING, which a larger base does not change.
    """
    return float(2.0 * math.pi * base ** (critical / width))


@dataclass(frozen=True)
class SmallBases:
    """Bases below which all dimensions have seen a quarter, a half, or all of a period in fine-tuning.

    The smaller the base below them, the better it extrapolates.
    """

    quarter: float
    half: float
    whole: float


def small_bases(tuned_length: int) -> SmallBases:
    """beta_1 = 2 T' / pi, beta_2 = T' / pi, beta_3 = T' / (2 pi) of a length of fine-tuning."""
    return SmallBases(
        2.0 * tuned_length / math.pi, tuned_length / math.pi, tuned_length / (2.0 * math.pi)
    )


@dataclass(frozen=True)
class Extrapolation:
    """What the laws say about a base for a model pretrained at another base and length.

    critical_dimension: of the base in use: that of pretraining above the critical base, that of fine-tuning otherwise.
    usable_length: tokens up to which it carries.
    """

    critical_base: float
    critical_dimension: int
    usable_length: float


def extrapolation(
    base: float, *, pretrained_base: float, pretrained_length: int, tuned_length: int, width: int
) -> Extrapolation:
    """The laws for fine-tuning at `tuned_length` tokens with `base`. width: of the rotation."""
    critical = critical_base(pretrained_base, pretrained_length, tuned_length)
    if base > critical:
        dimension = critical_dimension(pretrained_base, width, pretrained_length)
        return Extrapolation(critical, dimension, usable_length(base, width, dimension))
    dimension = critical_dimension(base, width, tuned_length)
    return Extrapolation(critical, dimension, float(tuned_length))
