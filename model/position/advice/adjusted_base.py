"""Adjusted base frequency (ABF) against position interpolation: granularity and decay.

    decay(m) = 2 / sqrt(d) * sum_i cos(m theta_i)      score of an all-ones query and key at the distance m

Granularity is the distance between the images of neighbouring positions: the larger, the easier they are to tell
apart. ABF keeps more of it than interpolation.

Source: arXiv 2309.16039 (Llama 2 Long). Shape letters: P pairs, M distances.
"""

import math

import numpy

from model.position.advice.base_bound import similarity
from model.position.settings import Values


def interpolated_granularity(base: float, share: float) -> float:
    """Approximate granularity of position interpolation, share / ln(base). share: 1 / factor, the paper's alpha."""
    return share / math.log(base)


def adjusted_granularity(base: float, raise_of_base: float) -> float:
    """Approximate granularity of ABF, 1 / (ln(base) + ln(raise)). raise_of_base: new base / base, the paper's beta."""
    return 1.0 / (math.log(base) + math.log(raise_of_base))


def granularity(radians_P: Values) -> float:
    """Exact granularity: the mean over the pairs of sin(theta), of the angle between neighbouring positions.

    radians_P: per token, of the pairs that turn.
    """
    return float(numpy.sin(radians_P).mean())


def decay(radians_P: Values, distances_M: Values) -> Values:
    """Score of an all-ones query and key at each distance in tokens, (M,). P is half of the head dimension."""
    found_M: Values = 2.0 * similarity(radians_P, distances_M) / math.sqrt(2 * len(radians_P))
    return found_M
