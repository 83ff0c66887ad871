"""Rules for the length before scaling, which several position methods have."""

import math


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
        return [
            f"{key}.original_length={original_length}: must be the length before scaling, in tokens"
        ]
    if original_length < least:
        return [
            f"{key}.original_length={original_length}: no pair makes {limit}={turns:g} turns over so few "
            f"tokens, {scaling} has nothing to keep; give the length before scaling, at least {least}"
        ]
    return []
