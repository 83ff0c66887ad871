"""What a run says when it ends: what came out, where the report is, what to try next."""

import json
from pathlib import Path
from typing import Any

from train.checkpoint import RunState


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
    return [
        f"Held-out loss {row['loss']:.3f} nats (bigram {row['bigram_loss']:.3f}, unigram "
        f"{row['unigram_loss']:.3f}) at length {row['sequence_length']:,};",
        f"first quarter of positions {early:.3f}, last quarter {late:.3f}: "
        + (
            "late positions profit from the context."
            if late < early
            else "no gain from late context yet."
        ),
    ]


def _last_row(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    rows = path.read_text().splitlines()
    row: dict[str, Any] | None = json.loads(rows[-1]) if rows else None
    return row
