"""A row of the table of settings that may have no effect. For `idle.py`."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from train.configuration.schema import RunConfig

Condition = Callable[[RunConfig, str], bool]


@dataclass(frozen=True)
class Row:
    """Keys that matter only if a condition holds.

    keys: of the schema; NAME stands for an entry's name. matters: the condition, given the run and that name.
    otherwise: the message after "has no effect", with a way out.
    """

    keys: tuple[str, ...]
    matters: Condition
    otherwise: str

    def match(self, key: str) -> tuple[str, str] | None:
        """Returns the key of this row that equals or contains `key`, and the name in it ("" for none); else None."""
        for pattern in self.keys:
            template = re.escape(pattern).replace("NAME", r"(?P<name>[^.]+)")
            if found := re.match(rf"{template}(?=\.|$)", key):
                return found.group(), found.groupdict().get("name", "")
        return None
