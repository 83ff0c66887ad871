"""Values out of the rows of a run's logs. A row may lack any key, and hold anything under it."""

import math
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def finite_value(row: Row, key: str) -> float | None:
    """row[key] as a float; None where it is absent, not a number, NaN, infinite or beyond a float."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def known(rows: Iterable[Row], key: str) -> list[float]:
    """The finite values of one key."""
    return [value for row in rows if (value := finite_value(row, key)) is not None]


def mapping(row: Row, key: str) -> Row:
    """row[key] where it is a mapping, else an empty one."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def mappings(row: Row, key: str) -> list[Row]:
    """The mappings in the list row[key]; none where it is no list."""
    value = row.get(key)
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []


def weighted_mean(rows: Iterable[Row], key: str, weight: str) -> float | None:
    """Mean of `key` weighted by `weight`, over the rows that have both; None where none has."""
    pairs = [(finite_value(row, key), finite_value(row, weight)) for row in rows]
    whole = [(value, share) for value, share in pairs if value is not None and share]
    total = sum(share for _, share in whole)
    return sum(value * share for value, share in whole) / total if total else None


def spiked(row: Row) -> bool:
    """Whether a step's loss was above the limit of train.spikes."""
    loss, limit = finite_value(row, "loss"), finite_value(mapping(row, "spikes"), "limit")
    return loss is not None and limit is not None and loss > limit


def rounded(value: float | None) -> float | None:
    """Six significant digits: enough to draw, half the size of the file."""
    return None if value is None else float(f"{value:.6g}")
