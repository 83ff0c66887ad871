"""Values as YAML and JSON have them -> the dataclasses of the schema, or every mistake in them.

The annotation of a field is its whole rule: a type, `Literal[...]` for a choice, `Annotated[int, Ge(1)]` for bounds.
A value that breaks it is reported in one line and replaced, by what `instead` has in its place or else by the field's
default, so that the rules between fields can be judged in the same run. The only import of pydantic, which converts and
checks single values (2e6 is a whole number, "4" too); the sentences are ours.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from data.printable import one_line
from train.configuration.nearest import did_you_mean, nearest

T = TypeVar("T")
# The mistakes found, by the key each is about.
Mistakes = dict[str, str]


class Reported:
    """Stands in the place of a value whose mistake is known already."""


WRONG = Reported()


def read(
    schema: type[T], content: Any, key: str = "", *, instead: Any = None
) -> tuple[T | None, Mistakes]:
    """`content` as an object of `schema`, with wrong values replaced, and what is wrong with them.

    key: where it stands. instead: values of the same shape that replace wrong ones, before defaults do. The object
    is None where a value is wrong or absent that has neither.
    """
    found: Mistakes = {}
    value = _dataclass(schema, content, key, WRONG if instead is None else instead, found)
    return (None if value is WRONG else value), found


@lru_cache(maxsize=256)
def field_types(schema: Any) -> Mapping[str, Any]:
    """The annotations of a dataclass's fields, with choices and bounds."""
    return typing.get_type_hints(schema, include_extras=True)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; `WRONG` if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return WRONG if field.default is dataclasses.MISSING else field.default


def plain(value: Any) -> Any:
    """A value of the schema as YAML would say it."""
    is_object = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return dataclasses.asdict(value) if is_object else value


def _value(hint: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """`value` by its annotation, or `WRONG` once its mistakes are in `found`."""
    if value is WRONG or hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, key, instead, found)
    if get_origin(hint) is dict and dataclasses.is_dataclass(get_args(hint)[1]):
        return _entries(get_args(hint)[1], value, key, instead, found)
    return _single(hint, value, key, instead, found)


def _dataclass(schema: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    hints, prefix = field_types(schema), f"{key}." if key else ""
    if not isinstance(value, Mapping):
        found[key] = f"{key}={shown(value)}: must be a mapping with {', '.join(hints)}"
        return WRONG
    for name in value:
        if name not in hints:
            at = f"{prefix}{name}"
            near = nearest(str(name), hints)
            way_out = f"; did you mean {prefix}{near}?" if near else _are(hints)
            found[at] = f"{at}: unknown key{way_out}"
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


def _are(names: Iterable[str]) -> str:
    return f"; there are {', '.join(names)}"


def _entries(schema: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """A mapping from names to objects of `schema`."""
    if not isinstance(value, Mapping):
        found[key] = f"{key}={shown(value)}: must be a mapping from names to settings"
        return WRONG
    read = {
        name: _dataclass(schema, entry, f"{key}.{name}", _inside(instead, name), found)
        for name, entry in value.items()
    }
    return WRONG if any(entry is WRONG for entry in read.values()) else read


def _inside(values: Any, name: str) -> Any:
    return values.get(name, WRONG) if isinstance(values, Mapping) else WRONG


def _single(hint: Any, value: Any, key: str, instead: Any, found: Mistakes) -> Any:
    """A value without fields of its own: a number, a choice, a text, a list or a mapping of them."""
    try:
        return _adapter(hint).validate_python(value)
    except ValidationError as error:
        for detail in error.errors():
            at, line = _mistake(hint, key, detail)
            found[at] = line
        if key in found:
            found[key] += _example(hint, instead)
        return WRONG


@lru_cache(maxsize=256)
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _mistake(hint: Any, key: str, detail: Any) -> tuple[str, str]:
    """One finding of pydantic's: the key it is about, and what to say."""
    for part in detail["loc"]:
        if part == "[key]":
            break
        if detail["type"] == "missing" and get_origin(hint) is tuple:
            break
        inner = get_args(hint)
        if get_origin(hint) is dict:
            key, hint = f"{key}.{part}", inner[0] if "[key]" in detail["loc"] else inner[1]
        else:
            key, hint = f"{key}[{part}]", inner[part if get_origin(hint) is tuple else 0]
    value = detail["input"]
    near = did_you_mean(value, _choices(hint)) if isinstance(value, str) else ""
    if "[key]" in detail["loc"]:
        return key, f"{key}: unknown{near or _are(_choices(hint))}"
    return key, f"{key}={shown(value)}: must be {described(hint)}{near}"


def shown(value: Any) -> str:
    """A value as an argument would say it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(str(value))


def described(hint: Any) -> str:
    """What values an annotation allows."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(str(choice) or repr('') for choice in inner)}"
    if origin is Annotated:
        return f"{described(inner[0])}{_range(inner[1:])}"
    if origin in (Union, types.UnionType):
        return " or ".join(described(member) for member in inner)
    if origin is tuple:
        return f"[{', '.join(described(member) for member in inner)}]"
    if origin is list:
        return f"a list, each of it {described(inner[0])}"
    if origin is dict:
        return f"a mapping from names, each to {described(inner[1])}"
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        type(None): "null",
    }
    return names[hint]


def _range(metadata: tuple[Any, ...]) -> str:
    """The bounds of a number in words."""
    least = next((f" from {_number(m.ge)}" for m in metadata if isinstance(m, Ge)), "")
    least += next((f" above {_number(m.gt)}" for m in metadata if isinstance(m, Gt)), "")
    most = next((f" to {_number(m.le)}" for m in metadata if isinstance(m, Le)), "")
    most += next(
        (f" to below {_number(m.lt)}" for m in metadata if isinstance(m, Lt) and m.lt < math.inf),
        "",
    )
    return f"{least}{most}" if most else f"{least} up" if " from" in least else least


def _number(bound: Any) -> str:
    """A bound without a fraction that is none."""
    return str(int(bound) if bound == int(bound) else bound)


def _choices(hint: Any) -> tuple[str, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _example(hint: Any, value: Any) -> str:
    """A value that is right, of a number."""
    base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"; for example {value}" if is_number and base in (int, float) else ""
