"""What the fields of the schema say of themselves: the comment that stands above each, or the docstring of a section.

The words stand once, beside the field they are about; `--help` shows them and a test sees that no field is without.
"""

import inspect
import textwrap
from functools import lru_cache
from typing import Any


def comment_of(schema: type, name: str) -> str:
    """The comment above the field `name` of a dataclass, as one paragraph; "" where there is none."""
    return _comments(schema).get(name, "")


def docstring_of(schema: type) -> str:
    """The first paragraph of a dataclass's docstring."""
    return _joined(inspect.getdoc(schema) or "")


@lru_cache(maxsize=64)
def _comments(schema: Any) -> dict[str, str]:
    """The comments of all fields. A field's comment ends on the line before it."""
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


def _joined(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())
