"""The whole comparison of two sides as one JSON object."""

from pathlib import Path
from typing import Any

from train.compare.checkpoints import compare_checkpoints
from train.compare.rows import compare_rows
from train.compare.sides import Side
from train.configuration.idle import flat
from train.report.differences import differing, shown
from train.report.rows import Row

# Of a row of starts.jsonl: what the numbers may depend on.
_MACHINE = ("commit", "changed_files", "host", "world_size", "device", "device_name", "versions")
_DATA = ("sources", "heldout", "mix")


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Returns where two sides part.

    equal: no number, tensor or field of a state that both have differs. configuration, data, machine: [key, value in A,
    value in B], of config.yaml and of the starts that took the last step before they part; configuration and machine
    do not make sides unequal. steps, evaluations: see `compare_rows`. checkpoints: see `compare_checkpoints`, one entry
    for every common step up to the first that differs; of two checkpoints that were named, theirs alone.

    Raises:
        ValueError: the sides have nothing in common, or a checkpoint is damaged or of another format.
        OSError: a file of a checkpoint cannot be read.
    """
    steps, evaluations = compare_rows(a.steps, b.steps), compare_rows(a.evaluations, b.evaluations)
    checkpoints = []
    for pair in _pairs(a, b):
        checkpoints.append(compare_checkpoints(*pair))
        if _parts(checkpoints[-1]):
            break
    if not (steps["compared"] or checkpoints):
        raise ValueError(
            f"{a.path} and {b.path}: have no step of metrics.jsonl and no checkpoint's step in common; {_has(a)}, "
            f"{_has(b)}"
        )
    last = steps["steps"][1] if steps["steps"] else checkpoints[-1]["steps"][0]
    near = steps["first_different"] or last
    starts = a.start_before(near), b.start_before(near)
    rows = steps["differences"] or evaluations["differences"]
    return {
        "a": str(a.path),
        "b": str(b.path),
        "equal": not rows and not any(map(_parts, checkpoints)),
        "configuration": differing([a.config, b.config]) if a.config and b.config else [],
        "data": _differing(*starts, names=_DATA),
        "machine": _differing(*starts, names=_MACHINE)
        or [row for one in checkpoints[-1:] for row in one["machine"]],
        "steps": steps,
        "evaluations": evaluations,
        "checkpoints": checkpoints,
    }


def _parts(checkpoint: dict[str, Any]) -> bool:
    return bool(checkpoint["differences"] or checkpoint["state"])


def _pairs(a: Side, b: Side) -> list[tuple[Path, Path]]:
    """Returns the checkpoints to compare, oldest first."""
    if a.only and b.only:
        return [(a.only, b.only)]
    if a.only or b.only:
        named, run = (a, b) if a.only else (b, a)
        own = {path.resolve(): step for step, path in named.checkpoints.items()}
        step = own.get(named.only.resolve()) if named.only else None
        if named.only is None or step not in run.checkpoints:
            raise ValueError(
                f"{run.path}: has no checkpoint of the step of {named.path}; {_has(run)}"
            )
        pair = named.only, run.checkpoints[step]
        return [pair if a.only else pair[::-1]]
    common = sorted(a.checkpoints.keys() & b.checkpoints.keys())
    return [(a.checkpoints[step], b.checkpoints[step]) for step in common]


def _has(side: Side) -> str:
    kept = ", ".join(map(str, side.checkpoints)) or "none"
    rows = f"{side.steps[0]['step']} to {side.steps[-1]['step']}" if side.steps else "none"
    return f"{side.path} has steps {rows} and checkpoints of steps {kept}"


def _differing(a: Row, b: Row, *, names: tuple[str, ...]) -> list[list[str]]:
    """Returns [key, value in A, value in B] of the entries of two starts that differ; none if a start is not known."""
    if not (a and b):
        return []
    flats = [dict(flat({name: start.get(name) for name in names})) for start in (a, b)]
    keys = dict.fromkeys(key for values in flats for key in values)
    rows = [[key, *(shown(values.get(key)) for values in flats)] for key in keys]
    return [row for row in rows if row[1] != row[2]]
