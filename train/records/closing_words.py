"""What a run says when it ends: what came out, where the report is, what to try next."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.checkpointing.state import RunState
from train.records.console import number
from train.records.evaluation_rows import HELD_OUT, rows_of_task


def closing_words(folder: Path, state: RunState, *, finished: bool) -> str:
    """A short summary for the main rank's stdout."""
    if not finished:
        return (
            f"\n{folder}: asked to stop; saved at step {state.step:,}, {state.tokens_seen:,} tokens. "
            "The same command goes on from there.\n"
        )
    python = _interpreter()
    pad = " " * max(8, 37 - len(python))
    lines = ["", f"{folder} is complete: {state.step:,} steps, {state.tokens_seen:,} tokens."]
    last = _last_held_out(folder / "evaluation.jsonl")
    if last:
        lines += _held_out(last)
    lines += [f"Pipeline, one step drawn: {path}" for path in sorted(folder.glob("pipeline_*.svg"))]
    lines += [
        f"Report: {folder}/report.html",
        "",
        "Next, try",
        f'  make train ARGS="run_name=baseline recipe=full_rope"   a baseline, to compare with {folder.name}',
        f"  {python} -m train --help{pad}every group and key of a run",
        f"  {python} -m data.prepare --help{pad[7:]}token files from your own documents",
        "",
    ]
    return "\n".join(lines)


def _interpreter() -> str:
    """How this interpreter is called from here, so that the commands can be copied."""
    here, python = Path.cwd(), Path(sys.executable)
    return str(python.relative_to(here)) if python.is_relative_to(here) else "python"


def _held_out(row: Mapping[str, Any]) -> list[str]:
    early, late = row["first_quarter_loss"], row["last_quarter_loss"]
    return [
        f"Held-out loss {number(row['loss'])} nats (bigram {number(row['bigram_loss'])}, unigram "
        f"{number(row['unigram_loss'])}) at length {row['sequence_length']:,};",
        f"first quarter of positions {number(early)}, last quarter {number(late)} (bigram "
        f"{number(row.get('first_quarter_bigram_loss'))} and "
        f"{number(row.get('last_quarter_bigram_loss'))}).",
    ]


def _last_held_out(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return next(reversed(rows_of_task(rows, HELD_OUT)), None)
