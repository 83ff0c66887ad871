"""Values from YAML and JSON -> the dataclasses of the schema, or every mistake in the values.

The annotation of a field is its whole rule: a type, `Literal[...]` for a choice, `Annotated[int, Ge(1)]` for bounds.
A value that breaks its rule is reported in one line and replaced, by the value in `instead` or else by the field's
default, so that the rules between fields can be checked in the same run. The only module that imports pydantic, which
converts and checks single values (2e6 is a whole number, "4" too); the messages are written here.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from train.configuration.nearest import nearest
from train.configuration.of_the_model import belongs_to_model
from train.configuration.other_names import other_name_hint
from train.configuration.schema import PartOf
from train.configuration.wording import (
    choices,
    described,
    example,
    mistake_of,
    near_choice,
    no_alternative,
    shown,
    there_are,
)

T = TypeVar("T")
# Messages of the mistakes found, by key.
Mistakes = dict[str, str]


class Reported:
    """Takes the place of a value whose mistake is already reported."""


WRONG = Reported()


def read(
    schema: type[T], content: Any, key: str = "", *, instead: Any = None
) -> tuple[T | None, Mistakes]:
    """Returns `content` as an object of `schema`, with wrong values replaced, and the mistakes by key.

    key: the key of `content`. instead: values of the same shape that replace wrong ones; without one the default does.
    The object is None if a wrong or absent value has neither.
    """
    found: Mistakes = {}
    value = _value(schema, content, key, WRONG if instead is None else instead, found)
    return (None if value is WRONG else value), found


def field_types(schema: Any) -> Mapping[str, Any]:
    """Returns the annotations of a dataclass's fields, with choices and bounds."""
    return _field_types(schema)


# How lines begin that depend on all values below their key.
_BY_VALUES = ("changes nothing", "has no effect where its parameters train the same")


def still_judged(lines: Iterable[str], wrong: Collection[str]) -> list[str]:
    """Returns the lines that name no key in `wrong`: those keys had replaced values when the rules were checked."""
    keys = [re.sub(r"\[\d+\]$", "", key) for key in wrong]
    names = [re.compile(rf"\b{re.escape(key.split('.')[-1])}=") for key in keys]
    return [
        line
        for line in lines
        if not any(name.search(line) for name in names)
        and not any(_is_about(line, key) for key in keys)
    ]


def _is_about(line: str, key: str) -> bool:
    """Whether a line is about `key`, without its value, or is a judgement of what holds `key` by its values."""
    subject, _, rule = line.partition(": ")
    if rule.startswith("every parameter is frozen"):  # in one stage, or in all
        stage = subject if subject.startswith("schedule.") else r"schedule\.stages\.[^.]+"
        return bool(re.match(rf"(optimizer|{stage})\.groups\.", key))
    return key == subject or (key.startswith(f"{subject}.") and rule.startswith(_BY_VALUES))


@lru_cache(maxsize=256)
def _field_types(schema: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Returns the default of a field; `WRONG` if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return WRONG if field.default is dataclasses.MISSING else field.default


def plain(value: Any) -> Any:
    """Returns a value of the schema in the form that YAML has it."""
    is_object = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_object else value


def _value(hint: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """Converts `value` by its annotation; adds mistakes to `found` and then returns `WRONG`."""
    if value is WRONG or hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, key, instead, found)
    if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]):
        return _entries(get_args(hint)[1], value, key, instead, found)
    if part := part_of(hint):
        return _part(part, value, key, found)
    if objects(hint):
        return _alternative(hint, value, key, instead, found)
    return _single(hint, value, key, instead, found)


def _dataclass(schema: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    hints, prefix = field_types(schema), f"{key}." if key else ""
    if not isinstance(value, Mapping):
        meant = next((name for name in hints if value in choices(hints[name])), "")
        near = f"; did you mean {prefix}{meant}={shown(value)}?" if meant else ""
        found[key] = f"{key}={shown(value)}: must be {mapping_of(schema)}{near}"
        return WRONG
    _find_unknown(value, hints, prefix, found)
    given = {}
    for field in dataclasses.fields(schema):
        name, at, before = field.name, f"{prefix}{field.name}", _inside(instead, field.name)
        got: Any = WRONG
        if name in value:
            usual = default_of(field) if before is WRONG else before
            got = _value(hints[name], value[name], at, usual, found)
        elif default_of(field) is WRONG:
            found[at] = f"{at}: must be given; it has no default"
        if got is WRONG and before is not WRONG:
            got = _value(hints[name], before, at, WRONG, {})
        given[name] = default_of(field) if got is WRONG else got
    return WRONG if any(value is WRONG for value in given.values()) else schema(**given)


def _entries(schema: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """Reads a mapping from names to objects of `schema`."""
    if not isinstance(value, Mapping):
        found[key] = f"{key}={shown(value)}: must be a mapping from names to settings"
        return WRONG
    read = {
        name: _dataclass(schema, entry, f"{key}.{name}", _inside(instead, name), found)
        for name, entry in value.items()
    }
    return WRONG if any(entry is WRONG for entry in read.values()) else read


def objects(hint: Any) -> tuple[Any, ...]:
    """Returns the dataclasses among the alternatives that an annotation allows."""
    if get_origin(hint) not in (Union, types.UnionType):
        return ()
    return tuple(member for member in get_args(hint) if dataclasses.is_dataclass(member))


def is_section(hint: Any) -> bool:
    """Whether values of this annotation are mappings with fixed keys: a dataclass, or one of several."""
    known = objects(hint)
    return dataclasses.is_dataclass(hint) or (bool(known) and known == get_args(hint))


def fields_of(hint: Any) -> Mapping[str, tuple[Any, Any]]:
    """Returns the fields of a dataclass, or of all alternatives that are dataclasses.

    Each name has the first dataclass with that field, and its annotation there. The field that selects one of the
    alternatives has the choices of all.
    """
    known = (hint,) if dataclasses.is_dataclass(hint) else objects(hint)
    found: dict[str, tuple[Any, Any]] = {}
    for schema in known:
        for name, inner in field_types(schema).items():
            found.setdefault(name, (schema, inner))
    if len(known) > 1 and (tag := tag_of(known)):
        found[tag] = (known[0], Literal.__getitem__(tuple(_by_choice(known))))
    return found


def part_of(hint: Any) -> Mapping[str, Any]:
    """Returns the fields that a mapping marked `PartOf` may have, with annotations; empty for other annotations."""
    for mark in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
        if isinstance(mark, PartOf):
            known = field_types(mark.schema).items()
            return {name: inner for name, inner in known if name not in mark.without}
    return {}


def _part(hints: Mapping[str, Any], value: Any, key: str, found: Mistakes) -> Any:
    """Reads a mapping with some of the fields in `hints`; leaves out wrong values."""
    if not isinstance(value, Mapping):
        found[key] = f"{key}={shown(value)}: must be a mapping with some of {', '.join(hints)}"
        return WRONG
    _find_unknown(value, hints, f"{key}.", found)
    read = {
        name: _value(hints[name], inner, f"{key}.{name}", WRONG, found)
        for name, inner in value.items()
        if name in hints
    }
    return {name: inner for name, inner in read.items() if inner is not WRONG}


def _alternative(hint: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """Reads a single value, or an object of the dataclass that the mapping's choice (or the choice alone) selects."""
    known, tag, by_choice = objects(hint), tag_of(objects(hint)), _by_choice(objects(hint))
    if isinstance(value, str) and value in by_choice:
        value = {tag: value}
    if isinstance(value, Mapping):
        choice = value.get(tag)
        if choice is WRONG:
            return WRONG
        if choice is not None and str(choice) not in by_choice:
            near = near_choice(choice, list(by_choice))
            says = f"must be one of {', '.join(by_choice)}{near}"
            found[f"{key}.{tag}"] = f"{key}.{tag}={shown(choice)}: {says}"
            return WRONG
        schema = by_choice[str(choice)] if choice else known[0]
        return _dataclass(schema, _own(value, schema, known, key, found), key, instead, found)
    or_choice = f"a {tag} ({', '.join(by_choice)})" if tag else mapping_of(known[0])
    single: Any = tuple(member for member in get_args(hint) if member not in known)
    try:
        if single:
            return _adapter(Union.__getitem__(single)).validate_python(value)
    except ValidationError:
        or_choice = f"{described(Union.__getitem__(single))}, or {or_choice}"
    near = "" if single else near_choice(value, list(by_choice))
    found[key] = f"{key}={shown(value)}: must be {or_choice}{near}"
    return WRONG


def _own(
    value: Mapping[str, Any], schema: Any, known: Sequence[Any], key: str, found: Mistakes
) -> dict[str, Any]:
    """Returns `value` without the fields that only other alternatives than `schema` have.

    Such a field without effect is a mistake, unless it has its default (as in files that hold every field).
    """
    tag, own = tag_of(known), field_types(schema)
    left = dict(value)
    for name, inner in value.items():
        other = next((other for other in known if name in field_types(other)), None)
        if name in own or other is None:
            continue
        del left[name]
        field = next(each for each in dataclasses.fields(other) if each.name == name)
        if inner is WRONG or inner == plain(default_of(field)):
            continue
        at, chosen = f"{key}.{name}", value.get(tag) or choices(own[tag])[0]
        found[at] = (
            f"{at}={shown(inner)}: has no effect with {key}.{tag}={chosen}; drop it, or give {key}.{tag}="
            f"{' or '.join(choices_with(name, known))}"
        )
    return left


def choices_with(name: str, schemas: Sequence[Any]) -> list[str]:
    """Returns the values of the selecting field that stand for a dataclass with the field `name`."""
    return [choice for choice, schema in _by_choice(schemas).items() if name in field_types(schema)]


def _by_choice(schemas: Sequence[Any]) -> dict[str, Any]:
    """Returns the dataclass that each value of the selecting field stands for."""
    tag = tag_of(schemas)
    tagged = schemas if tag else ()
    return {name: schema for schema in tagged for name in choices(field_types(schema)[tag])}


def tag_of(schemas: Sequence[Any]) -> str:
    """Returns the field whose value selects one of these dataclasses; empty for one dataclass without such a field."""
    names = (
        name
        for name in field_types(schemas[0])
        if all(choices(field_types(schema).get(name)) for schema in schemas)
    )
    return next(names, "")


def mapping_of(schema: Any) -> str:
    """Describes a mapping to an object of `schema`: "a mapping with start, end"."""
    return f"a mapping with {', '.join(field_types(schema))}"


def _find_unknown(
    value: Mapping[str, Any], hints: Mapping[str, Any], prefix: str, found: Mistakes
) -> None:
    for name in value:
        if name in hints:
            continue
        at = f"{prefix}{name}"
        if reason := belongs_to_model(at.split(".")):
            found[at] = f"{at}: {reason}"
        else:
            near = nearest(str(name), hints)
            way_out = f"; did you mean {prefix}{near}?" if near else other_name_hint(str(name))
            way_out = way_out or there_are(hints)
            found[at] = f"{at}: unknown key{way_out}"


def _inside(values: Any, name: str) -> Any:
    return values.get(name, WRONG) if isinstance(values, Mapping) else WRONG


def _single(hint: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """Reads a value that is no dataclass: a number, a choice, a text, or a list or mapping of these."""
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        if get_origin(hint) in (
            Union,
            types.UnionType,
        ):  # pydantic reports each alternative by itself
            found[key] = no_alternative(hint, key, value)
        for detail in [] if key in found else error.errors():
            at, line = mistake_of(hint, key, detail)
            found[at] = line
        if key in found:
            found[key] += example(hint, instead)
        return WRONG


@lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
