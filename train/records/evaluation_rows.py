"""Rows of evaluation.jsonl, told apart by the task that made them."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])
# Rows of version 0.1.0 have no `task`: held-out loss was the only one.
HELD_OUT = "held_out"


def rows_of_task(rows: Iterable[Row], task: str) -> list[Row]:
    """The rows of one task, in order."""
    return [row for row in rows if row.get("task", HELD_OUT) == task]
