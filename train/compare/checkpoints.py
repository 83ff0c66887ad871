"""Two checkpoints: the tensors that differ, in the order of the model, and the fields of their states.

Tensors are whole ones by parameter name in every layout, so checkpoints of different layouts and ZeRO stages compare.
They are read a piece at a time, and not at all where both lie in files of the same SHA-256.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from model.parameters import EMBEDDING, HEAD, LAYER
from parallel.checkpoint.index import Index
from parallel.checkpoint.pieces import StoredTensor, stored_tensors
from train.checkpointing.state import RunState, read_index, read_state
from train.compare.sizes import Size, size_of, unequal
from train.configuration.idle import flat
from train.report.differences import shown

# For information only; both are shown among the differences of machine and versions.
_NO_NUMBERS = ("layout", "versions")
_OF_LAYER = re.compile(r"layers\.(\d+)\.(.*)")
_IN_LAYER = {name: number for number, name in enumerate(LAYER)}
_OUTSIDE = {name: number for number, name in enumerate((*EMBEDDING, *HEAD))}
_MOST_CHARACTERS = 60


def compare_checkpoints(a: Path, b: Path) -> dict[str, Any]:
    """Returns the differences of two complete checkpoints.

    steps: of both; tensors: how many there are; equal_files: tensors not read, in files of equal SHA-256; state:
    [field, value in A, value in B] of every field that differs but layout and versions; machine: the same of those.
    differences: in the order of the model, weights before the states of the optimizer: {tensor, shape, elements,
    different, first, a, b, absolute, relative, units}: number of elements and of those that differ, flat number of the
    first that differs and its two values, the greatest sizes; or {tensor, only_in} or {tensor, shapes}.

    Raises:
        DamagedCheckpoint, ValueError: a file is missing or damaged, or of another format.
        OSError: a file cannot be read.
    """
    states = [read_state(folder) for folder in (a, b)]
    indexes = [read_index(folder) for folder in (a, b)]
    stored = [stored_tensors(*pair) for pair in zip((a, b), indexes, strict=True)]
    same = _in_equal_files(*indexes)
    keys = sorted(stored[0].keys() | stored[1].keys(), key=order)
    found = [
        _compare(key, stored[0].get(key), stored[1].get(key)) for key in keys if key not in same
    ]
    return {
        "steps": [state.step for state in states],
        "tensors": len(keys),
        "equal_files": len(same),
        "state": _differing_fields(*states),
        "machine": _fields(vars(states[0]), vars(states[1]), _NO_NUMBERS),
        "differences": [one for one in found if one is not None],
    }


def order(key: str) -> tuple[int, int, int, str]:
    """Returns the place of a tensor: weights before states of the optimizer; embedding, layers, final norm, head."""
    kind, _, name = key.partition("/")
    layer = _OF_LAYER.fullmatch(name)
    if layer:
        return kind != "weight", int(layer[1]), _IN_LAYER.get(layer[2], len(LAYER)), key
    number = -1 if name in EMBEDDING else 1 << 30
    return kind != "weight", number, _OUTSIDE.get(name, len(_OUTSIDE)), key


def _in_equal_files(a: Index, b: Index) -> set[str]:
    """Returns the tensors that lie in files of the same SHA-256."""

    def sums(index: Index) -> Mapping[str, str]:
        return {
            key: index["files"][record["file"]]["sha256"]
            for key, record in index["tensors"].items()
        }

    others = sums(b)
    return {key for key, found in sums(a).items() if others.get(key) == found}


def _compare(key: str, a: StoredTensor | None, b: StoredTensor | None) -> dict[str, Any] | None:
    """Returns the difference of one tensor; None if there is none."""
    if a is None or b is None:
        return {"tensor": key, "only_in": "B" if a is None else "A"}
    if a.shape != b.shape:
        return {"tensor": key, "shapes": [list(a.shape), list(b.shape)]}
    start, different, size, first = 0, 0, Size(), None
    for a_N, b_N in zip(a.pieces(), b.pieces(), strict=True):
        if not np.array_equal(a_N.view(np.uint32), b_N.view(np.uint32)):
            at = np.flatnonzero(unequal(a_N, b_N))
            if len(at):
                different += len(at)
                size = size.or_larger(size_of(a_N[at], b_N[at]))
                first = first or (start + int(at[0]), float(a_N[at[0]]), float(b_N[at[0]]))
        start += len(a_N)
    if first is None:
        return None
    return {
        "tensor": key,
        "shape": list(a.shape),
        "elements": start,
        "different": different,
        **dict(zip(("first", "a", "b"), first, strict=True)),
        **asdict(size),
    }


def _differing_fields(a: RunState, b: RunState) -> list[list[str]]:
    return _fields(vars(a), vars(b), [name for name in vars(a) if name not in _NO_NUMBERS])


def _fields(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Returns [name, value in A, value in B] of every value that differs; long ones as the first place that differs."""
    flats = [dict(flat({name: side[name] for name in names})) for side in (a, b)]
    keys = dict.fromkeys(key for values in flats for key in values)
    return [
        [key, *_short(*(values.get(key) for values in flats))]
        for key in keys
        if flats[0].get(key) != flats[1].get(key)
    ]


def _short(a: Any, b: Any) -> list[str]:
    said = [shown(value) for value in (a, b)]
    if max(map(len, said)) <= _MOST_CHARACTERS:
        return said
    at = next(i for i in count() if said[0][i : i + 1] != said[1][i : i + 1])
    start = max(0, at - _MOST_CHARACTERS // 3)
    return [
        f"{'... ' if start else ''}{text[start : start + _MOST_CHARACTERS]}"
        f"{' ...' if len(text) > start + _MOST_CHARACTERS else ''}"
        for text in said
    ]
