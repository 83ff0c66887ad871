"""Reads values from the rows of a run's logs. A row may lack any key or hold a value of any type."""

import math
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def finite_value(row: Row, key: str) -> float | None:
    """Returns row[key] as a float; None if absent, not a number, NaN, infinite or out of range."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def known(rows: Iterable[Row], key: str) -> list[float]:
    """Returns the finite values of one key."""
    return [value for row in rows if (value := finite_value(row, key)) is not None]


def mapping(row: Row, key: str) -> Row:
    """Returns row[key] if it is a mapping, else an empty mapping."""
    value = row.get(key)
    return value if isinstance(value, dict) else {}


def mappings(row: Row, key: str) -> list[Row]:
    """Returns the mappings in the list row[key]; an empty list if it is not a list."""
    value = row.get(key)
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []


def weighted_mean(rows: Iterable[Row], key: str, weight: str) -> float | None:
    """Returns the mean of `key` weighted by `weight` over the rows that have both; None if no row has."""
    pairs = [(finite_value(row, key), finite_value(row, weight)) for row in rows]
    whole = [(value, share) for value, share in pairs if value is not None and share]
    total = sum(share for _, share in whole)
    return sum(value * share for value, share in whole) / total if total else None


def spiked(row: Row) -> bool:
    """Returns whether a step's loss was above the limit of train.spikes."""
    loss, limit = finite_value(row, "loss"), finite_value(mapping(row, "spikes"), "limit")
    return loss is not None and limit is not None and loss > limit


def rounded(value: float | None) -> float | None:
    """Rounds to six significant digits: enough for a plot, and it halves the file."""
    return None if value is None else float(f"{value:.6g}")
