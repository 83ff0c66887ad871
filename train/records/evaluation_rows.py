"""Reads the rows of evaluation.jsonl, by task."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Mapping[str, Any])
# Rows of version 0.1.0 have no `task`: held-out loss was the only one.
HELD_OUT = "held_out"
ACCURACY = "accuracy"
LONG_PERPLEXITY = "long_perplexity"


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """Returns the complete rows of evaluation.jsonl; none if there is no file."""
    rows = []
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def rows_of_task(rows: Iterable[Row], task: str) -> list[Row]:
    """Returns the rows of one task, in order."""
    return [row for row in rows if row.get("task", HELD_OUT) == task]
