"""Factors that a config.json holds as another number: read, and written so that they are read as the same again.

our factor = read(their number)      their number = the one near the inverse that `read` turns into our factor
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_values import is_number


def above_zero(key: str) -> Callable[[Any, Mapping[str, Any]], float]:
    """Reads a factor under `key` as it is.

    Raises:
        CannotExpress: (the returned function) it is no number above 0.
    """

    def read(value: Any, _: Mapping[str, Any]) -> float:
        if not is_number(value) or not 0.0 < value < math.inf:
            raise CannotExpress([f"config.json: {key}={value!r}: must be a number above 0"])
        return float(value)

    return read


def inverse_of(read: Callable[[float], float], factor: float, near: float) -> float:
    """The number near `near` that `read` turns into `factor`, the shortest in decimals; `near` if there is none."""
    close = [near]
    for direction in (0.0, math.inf):
        step = near
        for _ in range(4):
            step = math.nextafter(step, direction)
            close.append(step)
    found = [number for number in close if read(number) == factor]
    return min(found, key=lambda number: len(repr(number)), default=near)
