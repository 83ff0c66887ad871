"""Every key of the schema as `--help` prints it: description, default and allowed values."""

import dataclasses
import json
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from train.configuration.compose import compose_run
from train.configuration.field_comments import comment_of
from train.configuration.idle import flat
from train.configuration.schema import RunConfig
from train.configuration.typed import (
    WRONG,
    choices_with,
    default_of,
    field_types,
    fields_of,
    is_section,
    objects,
    part_of,
    plain,
    tag_of,
)
from train.configuration.wording import choices, described

# Sections whose defaults come from the files that are chosen by default.
_FROM_FILES = ("model.", "data.", "run_name")


@dataclass(frozen=True)
class Key:
    """A key, or a section of keys. NAME in a key stands for the name of an entry.

    default: with its equals sign, "=2"; empty for sections. allowed: empty for sections.
    """

    name: str
    sentence: str
    default: str = ""
    allowed: str = ""

    def is_below(self, topic: str) -> bool:
        """Whether this is the key `topic`, or a key of the section `topic`."""
        own, asked = self.name.split("."), topic.split(".")
        return len(asked) <= len(own) and all(
            part in (wanted, "NAME") for part, wanted in zip(own, asked, strict=False)
        )


@lru_cache(maxsize=1)
def all_keys() -> tuple[Key, ...]:
    """Returns every key and section, in the order of the schema."""
    return tuple(_keys_of(RunConfig, ""))


def _keys_of(schema: Any, prefix: str) -> Iterator[Key]:
    forms = objects(schema)
    for own_name, (owner, hint) in fields_of(schema).items():
        name, sentence = f"{prefix}{own_name}", comment_of(owner, own_name)
        field = next(field for field in dataclasses.fields(owner) if field.name == own_name)
        if is_section(hint):
            yield Key(name, sentence)
            yield from _keys_of(hint, f"{name}.")
        elif typing.get_origin(hint) is dict and dataclasses.is_dataclass(
            inner := typing.get_args(hint)[1]
        ):
            yield Key(f"{name}.NAME", sentence)
            yield from _keys_of(inner, f"{name}.NAME.")
        else:
            only = _only_with(own_name, forms)
            yield Key(name, sentence, _default(name, field), f"{_allowed(hint)}{only}")


def _only_with(name: str, forms: Sequence[Any]) -> str:
    """Describes which alternatives have this field; "" if all have it."""
    if all(name in field_types(form) for form in forms):
        return ""
    return f"; with {tag_of(forms)}={', '.join(choices_with(name, forms))}"


def _default(name: str, field: dataclasses.Field[Any]) -> str:
    value = plain(default_of(field))
    if name.startswith(_FROM_FILES) and "NAME" not in name:
        value = _chosen().get(name, value)
    if value is WRONG:
        return "=...   (must be given)"
    if isinstance(value, str):
        return f"={value or repr('')}"
    if isinstance(value, list):
        return f"=[{','.join(map(str, value))}]"
    return f"={json.dumps(value)}"


@lru_cache(maxsize=1)
def _chosen() -> dict[str, Any]:
    """Returns the values of a run without arguments, by key."""
    return dict(flat(dataclasses.asdict(compose_run([]))))


def _allowed(hint: Any) -> str:
    """Describes the allowed values, with the forms of a mapping."""
    if part := part_of(hint):
        return f"a mapping with some of {', '.join(part)}"
    if forms := objects(hint):
        single = [member for member in typing.get_args(hint) if member not in forms]
        return " or ".join([*(described(member) for member in single), *map(_form, forms)])
    if typing.get_origin(hint) is dict and (names := choices(typing.get_args(hint)[0])):
        return f"a mapping from {', '.join(names)}, each to {described(typing.get_args(hint)[1])}"
    return described(hint)


def _form(schema: Any) -> str:
    """Returns the form of a mapping, such as {policy: ramp, end, start, tokens}."""
    parts = []
    for field in dataclasses.fields(schema):
        names = choices(field_types(schema)[field.name])
        parts.append(f"{field.name}: {'|'.join(names)}" if names else field.name)
    return "{" + ", ".join(sorted(parts, key=lambda part: ":" not in part)) + "}"
