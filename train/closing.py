"""What a run says when it ends: what came out, where the report is, what to try next."""

import json
from pathlib import Path
from typing import Any

from train.checkpoint import RunState
from train.progress import number


def closing_words(folder: Path, state: RunState, *, finished: bool) -> str:
    """A short summary for the main rank's stdout."""
    if not finished:
        return (
            f"\n{folder}: asked to stop; saved at step {state.step:,}, {state.tokens_seen:,} tokens. "
            "The same command goes on from there.\n"
        )
    lines = ["", f"{folder} is complete: {state.step:,} steps, {state.tokens_seen:,} tokens."]
    last = _last_row(folder / "evaluation.jsonl")
    if last:
        lines += _held_out(last)
    lines += [
        f"Report: {folder}/report.html",
        "",
        "Next, try",
        f"  python -m train experiment=quickstart run_name=baseline recipe=full_rope   (compare with {folder.name})",
        "  python -m data.prepare --help                                              (your own documents)",
        "  python -m train --help                                                     (every group and key)",
        "",
    ]
    return "\n".join(lines)


def _held_out(row: dict[str, Any]) -> list[str]:
    early, late = row["first_quarter_loss"], row["last_quarter_loss"]
    lines = [
        f"Held-out loss {number(row['loss'])} nats (bigram {number(row['bigram_loss'])}, unigram "
        f"{number(row['unigram_loss'])}) at length {row['sequence_length']:,};",
        f"first quarter of positions {number(early)}, last quarter {number(late)}",
    ]
    if early is not None and late is not None:
        profit = (
            "late positions profit from the context"
            if late < early
            else "no gain from late context yet"
        )
        lines[-1] += f": {profit}."
    return lines


def _last_row(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    rows = path.read_text().splitlines()
    row: dict[str, Any] | None = json.loads(rows[-1]) if rows else None
    return row
