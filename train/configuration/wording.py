"""Texts about single values: what a field allows, and messages about wrong values."""

import math
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from data.config import PathMark
from data.printable import one_line
from train.configuration.nearest import did_you_mean
from train.configuration.other_names import value_here


def mistake_of(hint: Any, key: str, detail: Any) -> tuple[str, str]:
    """Returns the key of one pydantic error, and the message about it."""
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
    near = near_choice(value, choices(hint))
    if "[key]" in detail["loc"]:
        return key, f"{key}: unknown{near or there_are(choices(hint))}"
    return key, f"{key}={shown(value)}: must be {described(hint)}{near}"


def no_alternative(hint: Any, key: str, value: Any) -> str:
    """Returns the message about a value that is none of the alternatives of an annotation."""
    known = [name for member in get_args(hint) for name in choices(member)]
    return f"{key}={shown(value)}: must be {described(hint)}{near_choice(value, known)}"


def near_choice(value: Any, known: Sequence[str]) -> str:
    """Returns the end of a message that names the choice probably meant; "" if there is none."""
    if len(known) == 1:
        return ""
    if meant := value_here(shown(value), known):
        return f"; did you mean {meant}?"
    return did_you_mean(value, known) if isinstance(value, str) else ""


def shown(value: Any) -> str:
    """Returns a value in the form of a command line argument."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return one_line(str(value))


def described(hint: Any) -> str:
    """Describes the values that an annotation allows."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        named = ", ".join(str(choice) or repr("") for choice in inner)
        return f"one of {named}" if len(inner) > 1 else named
    if marks := [mark for mark in inner[1:] if isinstance(mark, PathMark)]:
        return ", ".join([*sorted(marks[0].words), "or a path" if marks[0].words else "a path"])
    if origin is Annotated:
        return f"{described(inner[0])}{_range(inner[1:])}"
    if origin in (Union, types.UnionType):
        return " or ".join(described(member) for member in inner)
    if origin is tuple:
        return f"[{', '.join(described(member) for member in inner)}]"
    if origin is list:
        return f"a list, each item {described(inner[0])}"
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
    """Describes the bounds of a number."""
    least = next((f" from {_number(m.ge)}" for m in metadata if isinstance(m, Ge)), "")
    least += next((f" above {_number(m.gt)}" for m in metadata if isinstance(m, Gt)), "")
    most = next((f" to {_number(m.le)}" for m in metadata if isinstance(m, Le)), "")
    most += next(
        (f" to below {_number(m.lt)}" for m in metadata if isinstance(m, Lt) and m.lt < math.inf),
        "",
    )
    return f"{least}{most}" if most else f"{least} up" if " from" in least else least


def _number(bound: Any) -> str:
    """Returns a bound as text; without a fraction if it is a whole number."""
    return str(int(bound) if bound == int(bound) else bound)


def choices(hint: Any) -> tuple[str, ...]:
    """Returns the values that a `Literal` allows, as texts; empty for other annotations."""
    return tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else ()


def example(hint: Any, value: Any) -> str:
    """Returns the end of a message with a correct value, for numbers; "" for others."""
    base = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"; for example {value}" if is_number and base in (int, float) else ""


def there_are(names: Iterable[str]) -> str:
    """Returns the end of a message that lists the known names."""
    return f"; there are {', '.join(names)}"
