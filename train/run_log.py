"""The files a run leaves: metrics.jsonl, evaluation.jsonl, config.yaml, summary.json.

One JSON object a line, flushed at once. On resume rows beyond the checkpoint are dropped, so every step
stands once.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from train.checkpoint import write_durably


class RunLog:
    """Append-only logs of one run, written by the main rank only."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        """Open the logs; rows of steps beyond `first_step` (already done) are dropped."""
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = _reopen(folder / "metrics.jsonl", first_step)
        self._evaluation = _reopen(folder / "evaluation.jsonl", first_step)

    def step(self, row: dict[str, Any]) -> None:
        """One optimizer step."""
        _append(self._metrics, row)

    def evaluation(self, row: dict[str, Any]) -> None:
        """One evaluation."""
        _append(self._evaluation, row)

    def sync(self) -> None:
        """Force the rows to the disk: a checkpoint must not outlive the rows before it."""
        for file in (self._metrics, self._evaluation):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        self._evaluation.close()


def _reopen(path: Path, first_step: int) -> TextIO:
    if path.exists():
        kept = []
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # torn by a kill; everything after it is beyond the checkpoint
                break
            if row["step"] <= first_step:
                kept.append(line + "\n")
        write_durably(path, "".join(kept))
    return path.open("a")


def _append(file: TextIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, allow_nan=False) + "\n")
    file.flush()


def finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_config(folder: Path, text: str, step: int) -> None:
    """Write the resolved configuration; a different older one is kept beside it, named by the step."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    if path.exists() and path.read_text() != text:
        path.rename(folder / f"config_before_step_{step:08d}.yaml")
    if not path.exists():
        write_durably(path, text)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write or replace summary.json."""
    write_durably(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
