"""The comparison as text for the terminal."""

from collections.abc import Sequence
from typing import Any

from data.printable import one_line
from train.report.units import plural, whole_number

# Lines of one list; the rest is counted. --json has all.
_MOST_LINES = 12
_MOST_CHARACTERS = 60


def words(found: dict[str, Any]) -> str:
    """Returns the comparison that `compare` made as lines."""
    lines = [f"A  {found['a']}", f"B  {found['b']}"]
    for name, what in (
        ("configuration", "config.yaml"),
        ("data", "starts.jsonl"),
        ("machine", "versions and machine"),
    ):
        lines += _keys(f"{what}: {plural(len(found[name]), 'difference')}", found[name])
    lines += _rows("step", "metrics.jsonl", found["steps"])
    lines += _rows("evaluation", "evaluation.jsonl", found["evaluations"])
    for checkpoint in found["checkpoints"]:
        lines += _checkpoint(checkpoint)
    if not found["checkpoints"]:
        lines.append("checkpoints: none of a common step")
    lines.append(
        "equal: no number differs" if found["equal"] else "different: " + ", ".join(_verdict(found))
    )
    return "".join(f"{one_line(line)}\n" for line in lines)


def _verdict(found: dict[str, Any]) -> list[str]:
    said = []
    for name in ("steps", "evaluations"):
        if differences := found[name]["differences"]:
            first = differences[0]
            said.append(f"{name} from step {first['step']} on ({first['kind']}: {_key(first)})")
    for one in found["checkpoints"]:
        if one["differences"]:
            said.append(f"{one['differences'][0]['tensor']} at step {one['steps'][0]}")
        elif one["state"]:
            said.append(f"{one['state'][0][0]} in state.json at step {one['steps'][0]}")
    return said


def _keys(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    said = [f"  {key}: {_cut(a)} | {_cut(b)}" for key, a, b in rows]
    return [title, *_some(said)]


def _cut(text: str) -> str:
    if not text:
        return "(none)"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"  and {more} more; --json has all"] if more > 0 else [])]


def _rows(noun: str, file: str, found: dict[str, Any]) -> list[str]:
    if not found["compared"]:
        return [f"{file}: no {noun} in common"]
    first, last = found["steps"]
    title = f"{file}: {plural(found['compared'], noun)} in common, from step {first} to {last}; "
    if not found["differences"]:
        return [title + "all are equal"]
    step = found["first_different"]
    here = [one for one in found["differences"] if one["step"] == step]
    later = [f"{_key(one)} (step {one['step']})" for one in found["differences"] if one not in here]
    lines = [title + f"they part at step {step}", *_some([_difference(one) for one in here])]
    if later:
        more = f" and {len(later) - _MOST_LINES} more" if len(later) > _MOST_LINES else ""
        lines.append(f"  later: {', '.join(later[:_MOST_LINES])}{more}")
    return lines


def _key(one: dict[str, Any]) -> str:
    return one["key"] if one["task"] == "held_out" else f"{one['task']}/{one['key']}"


def _difference(one: dict[str, Any]) -> str:
    text = f"  {one['kind']}: {_key(one)}: {one['a']!r} | {one['b']!r}"
    if one["absolute"] is None or one["kind"] == "data":
        return text
    more = f", at most {one['largest']:.3g} later" if one["largest"] > one["absolute"] else ""
    return f"{text}; {_sizes(one)}{more}"


def _sizes(one: dict[str, Any]) -> str:
    return (
        f"difference {one['absolute']:.3g}, relative {one['relative']:.3g}, {one['units']:.3g} units "
        "of the last place"
    )


def _checkpoint(found: dict[str, Any]) -> list[str]:
    step, other = found["steps"]
    name = (
        f"checkpoint of step {step}"
        if step == other
        else f"checkpoints of steps {step} and {other}"
    )
    count, different = found["tensors"], found["differences"]
    title = f"{name}: {plural(count, 'tensor')}, "
    title += f"{whole_number(len(different))} of them differ" if different else "all are equal"
    lines = _some([_tensor(one) for one in different])
    fields = _keys(f"  state.json: {plural(len(found['state']), 'difference')}", found["state"])
    return [title, *lines, *fields]


def _tensor(one: dict[str, Any]) -> str:
    if "only_in" in one:
        return f"  {one['tensor']}: only in {one['only_in']}"
    if "shapes" in one:
        return f"  {one['tensor']}: shape {one['shapes'][0]} | {one['shapes'][1]}"
    return (
        f"  {one['tensor']} {one['shape']}: {whole_number(one['different'])} of "
        f"{plural(one['elements'], 'element')}, first element {one['first']}: {one['a']!r} | {one['b']!r}; at most "
        f"{_sizes(one)}"
    )
