"""Two logs of rows: the first step at which each number differs. What a machine or a layout decides is left out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from train.compare.sizes import Size, size_of
from train.records.evaluation_rows import HELD_OUT
from train.report.rows import Row

# Keys, at any depth, of times, speeds, memory and traffic; so are keys with these ends.
_MEASURED = {"seconds", "mfu", "stragglers", "checkpoint_failures", "sequence_bytes_received"}
_MEASURED_ENDS = ("_seconds", "_per_second", "_bytes")
# What was put into a step; all other keys are its results.
_DATA = {
    "tokens_seen",
    "valid_tokens",
    "batch_tokens",
    "padding_fraction",
    "sequence_length",
    "source_shares",
}
_SCHEDULE = {"stage", "learning_rate", "rope_base", "windows"}
_KINDS = ("data", "schedule", "result")


def compare_rows(a: Sequence[Row], b: Sequence[Row]) -> dict[str, Any]:
    """Returns what two logs have in common and where they differ.

    steps: [first, last] that both have, or None; compared: rows that both have. first_different: a step, or None.
    differences: by first step, then data, schedule and results: {key, kind, step, task, a, b, absolute, relative,
    units, largest}: the values at the first step at which the key differs, the size there, and the largest absolute
    difference of all steps; sizes are None where a value is no number. Only keys that both rows have are compared.
    """
    mine, others = _by_place(a), _by_place(b)
    places = sorted(mine.keys() & others.keys())
    found = dict[tuple[str, str], dict[str, Any]]()
    for step, task in places:
        left, right = (dict(_leaves(rows[step, task])) for rows in (mine, others))
        for key in left.keys() & right.keys():
            if _same(left[key], right[key]):
                continue
            size = _size(left[key], right[key])
            first = found.setdefault((task, key), _difference(key, step, task, size))
            if first["step"] == step:
                first |= {"a": left[key], "b": right[key]}
            if size and first["largest"] is not None:
                first["largest"] = max(first["largest"], size.absolute)
    differences = sorted(
        found.values(),
        key=lambda one: (one["step"], _KINDS.index(one["kind"]), one["task"], one["key"]),
    )
    return {
        "steps": [places[0][0], places[-1][0]] if places else None,
        "compared": len(places),
        "first_different": differences[0]["step"] if differences else None,
        "differences": differences,
    }


def _by_place(rows: Sequence[Row]) -> dict[tuple[int, str], Row]:
    return {(int(row["step"]), str(row.get("task", HELD_OUT))): row for row in rows}


def _leaves(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every single value of nested mappings and lists with its key, such as `sources.web.loss`."""
    if isinstance(values, Mapping):
        for name, inner in values.items():
            if name not in _MEASURED and not str(name).endswith(_MEASURED_ENDS):
                yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list):
        for number, inner in enumerate(values):
            yield from _leaves(inner, f"{key}[{number}]")
    else:
        yield key, values


def _same(a: Any, b: Any) -> bool:
    return bool(a == b or (a != a and b != b))  # NaN is not equal to itself


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(a: Any, b: Any) -> Size | None:
    if not (_is_number(a) and _is_number(b)):
        return None
    return size_of(np.array([_float(a)]), np.array([_float(b)]))


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a file may hold an integer of any size
        return math.inf


def _difference(key: str, step: int, task: str, size: Size | None) -> dict[str, Any]:
    sizes = asdict(size) if size else dict.fromkeys(("absolute", "relative", "units"))
    return {
        "key": key,
        "kind": _kind(key),
        "step": step,
        "task": task,
        **sizes,
        "largest": sizes["absolute"],
    }


def _kind(key: str) -> str:
    head, _, rest = key.partition(".")
    if head in _DATA or (head == "sources" and rest.endswith(".tokens")):
        return "data"
    return "schedule" if head in _SCHEDULE else "result"
