"""Turns that a pair makes over the length before scaling: what several position methods decide by.

Shape letters: P pairs.
"""

import math

import numpy

from model.position.settings import Values


def blended_by_turns(
    radians_P: Values, factor: float, *, original_length: int, low: float, high: float
) -> Values:
    """Frequencies scaled by the turns they make over `original_length`, (P,).

    A pair that makes `high` or more turns is kept, one that makes `low` or fewer is divided by `factor`, those between
    are blended, linearly in the number of turns.
    """
    turns_P = original_length * radians_P / (2.0 * math.pi)
    kept_P = numpy.clip((turns_P - low) / (high - low), 0.0, 1.0)
    return kept_P * radians_P + (1.0 - kept_P) * radians_P / factor


def length_problems(
    scaling: str, key: str, original_length: int, least_turns: tuple[str, float]
) -> list[str]:
    """Returns one line if no pair makes so many turns over `original_length`.

    The fastest pair makes original_length / 2 pi turns. With fewer turns than the lower limit every pair would be
    past the ramp, and YaRN's ramp would be reversed. least_turns: the field of that limit, and its value.
    """
    limit, turns = least_turns
    least = math.ceil(2.0 * math.pi * turns)
    if original_length < 1:
        return missing_length(key, original_length)
    if original_length < least:
        return [
            f"{key}.original_length={original_length}: no pair makes {limit}={turns:g} turns over so few "
            f"tokens, {scaling} has nothing to keep; give the length before scaling, at least {least}"
        ]
    return []


def missing_length(key: str, original_length: int) -> list[str]:
    """Returns the line about a length before scaling that is not given."""
    return [
        f"{key}.original_length={original_length}: must be the length before scaling, in tokens"
    ]
