"""Reads the help text of the schema from its source: the comment above each field.

Each text is written once, beside its field; `--help` prints it, and a test checks that every field has one.
"""

import dataclasses
import inspect
import textwrap
from functools import lru_cache
from typing import Any


def comment_of(schema: type, name: str) -> str:
    """Returns the comment above the field `name` of a dataclass as one paragraph; "" if there is none.

    A field that a dataclass inherits, or gives another annotation without a comment, has the comment of its base.
    """
    known = [base for base in schema.__mro__ if dataclasses.is_dataclass(base)]
    return next((text for base in known if (text := _comments(base).get(name, ""))), "")


@lru_cache(maxsize=64)
def _comments(schema: Any) -> dict[str, str]:
    """Returns the comments of all fields. The comment of a field ends on the line before the field."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in textwrap.dedent(inspect.getsource(schema)).splitlines():
        words = line.strip()
        if words.startswith("#"):
            above.append(words.removeprefix("#").strip())
            continue
        name, colon, _ = words.partition(":")
        if colon and name.isidentifier() and line.startswith("    ") and line[4] != " ":
            found[name] = " ".join(above)
        above = []
    return found
