"""The keys of the schema, and messages about unknown keys."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.configuration.nearest import did_you_mean, nearest
from train.configuration.of_the_model import belongs_to_model
from train.configuration.other_names import meaning_of
from train.configuration.renamed_keys import new_name
from train.configuration.schema import RunConfig
from train.configuration.typed import WRONG, default_of, fields_of, is_section, part_of


def known_keys() -> list[str]:
    """Returns every key of the schema, with NAME for the names of entries."""
    return list(_keys_of(RunConfig, ""))


def _keys_of(schema: Any, prefix: str) -> Iterator[str]:
    for name, (_, annotation) in fields_of(schema).items():
        key = f"{prefix}{name}"
        if is_section(annotation):
            yield key
            yield from _keys_of(annotation, f"{key}.")
        elif typing.get_origin(annotation) is dict and dataclasses.is_dataclass(
            inner := typing.get_args(annotation)[1]
        ):
            yield from _keys_of(inner, f"{key}.NAME.")
        else:
            yield key


def key_mistake(key: str, tree: Any) -> str | None:
    """Returns what is wrong with `key`, or None if the schema has it (`tree` has the names of stages)."""
    if renamed := new_name(key):
        return f"is called {renamed} now; write that"
    at: Any = RunConfig
    parts = key.split(".")
    for depth, part in enumerate(parts):
        known = _fields_of(at)
        if known:
            if part not in known:
                if reason := belongs_to_model(parts):
                    return reason
                return f"unknown key{_nearest(parts, depth, tree, list(known))}"
            at = known[part]
        elif typing.get_origin(at) is dict:
            at = typing.get_args(at)[1]
            present = children(tree, parts[:depth])
            if dataclasses.is_dataclass(at) and part not in present and _needs_values(at):
                near = did_you_mean(part, present, likeness=0.4)
                return f"there is no {part} in {'.'.join(parts[:depth])}{near}"
        else:
            return f"{'.'.join(parts[:depth])} is a single value and has no key {part}"
    return None


def _fields_of(schema: Any) -> Mapping[str, Any]:
    """Returns the names that may stand below a key, with annotations; for alternatives, the names of all of them."""
    return part_of(schema) or {name: hint for name, (_, hint) in fields_of(schema).items()}


def field_at(path: Sequence[str]) -> dataclasses.Field[Any] | None:
    """Returns the field of the schema that a key names; None for an entry of a mapping, or an unknown key."""
    at: Any = RunConfig
    found = None
    for part in path:
        found = None
        if known := fields_of(at):
            if part not in known:
                return None
            schema, at = known[part]
            found = next(field for field in dataclasses.fields(schema) if field.name == part)
        elif typing.get_origin(at) is dict:
            at = typing.get_args(at)[1]
        else:
            return None
    return found


def hint_at(path: Sequence[str]) -> Any:
    """Returns the annotation of a key; None if the schema has no such key."""
    at: Any = RunConfig
    for part in path:
        inner = typing.get_args(at) if typing.get_origin(at) is dict else ()
        at = inner[1] if inner else _fields_of(at).get(part)
    return at


def children(tree: Any, path: Sequence[str]) -> list[str]:
    """Returns the names below `path` in `tree`."""
    for part in path:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return list(tree) if isinstance(tree, Mapping) else []


def _needs_values(schema: Any) -> bool:
    """Whether a new entry of this schema needs values for fields without defaults."""
    return any(default_of(field) is WRONG for field in dataclasses.fields(schema))


def _nearest(parts: Sequence[str], depth: int, tree: Any, siblings: Sequence[str]) -> str:
    """Returns what an unknown key may mean; parts[depth] is its first unknown part, `siblings` are valid there."""
    key, section, tail = ".".join(parts), ".".join(parts[:depth]), parts[-1]
    known = [name for template in known_keys() for name in _filled(template, tree)]
    same_tail = sorted((name for name in known if name.split(".")[-1] == tail), key=len)
    sibling = nearest(parts[depth], siblings, likeness=0.6)
    if elsewhere := meaning_of(tail) or meaning_of(parts[depth]):
        return f"; {_told(elsewhere, tree)}"
    found = (
        next(iter(same_tail), "")
        or (sibling and ".".join([*parts[:depth], sibling, *parts[depth + 1 :]]))
        or ("" if depth else nearest(key, known, likeness=0.75))
    )
    if found:
        return f"; did you mean {found}?"
    if depth == 0:
        return "; ropewalk train --help lists them"
    return f"; {section} has {', '.join(siblings)}"


def _told(meaning: str, tree: Any) -> str:
    """Returns the meaning of another system's name, with the stages and sources of `tree`."""
    if " " in meaning:
        return meaning
    stages = children(tree, ["schedule", "stages"])
    own = [
        stage
        for stage in stages
        if "learning_rate" in children(tree, ["schedule", "stages", stage])
    ]
    if stages and own == stages:  # then the run's learning rate has no effect
        meaning = meaning.replace("schedule.learning_rate.", "schedule.stages.NAME.learning_rate.")
    head, _, rest = meaning.partition(".NAME.")
    names = children(tree, head.split(".")) if rest else []
    of_names = f" NAME is one of {', '.join(names)}" if names else ""
    return f"did you mean {meaning}?{of_names}"


def _filled(template: str, tree: Any) -> list[str]:
    """Returns a key of the schema with NAME replaced by each name in `tree`."""
    if "NAME" not in template:
        return [template]
    head, _, rest = template.partition("NAME")
    return [f"{head}{name}{rest}" for name in children(tree, head.strip(".").split("."))]
