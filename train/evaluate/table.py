"""The results of an evaluation as a table: a line for each task and length, columns for each model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from train.records.console import number
from train.records.evaluation_rows import ACCURACY, LONG_PERPLEXITY
from train.records.prompt_rows import PROMPTS, scores_by_length


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table as text."""
    labels = list(dict.fromkeys(row["stage"] for row in rows))
    lines: dict[tuple[str, int], dict[str, tuple[str, str]]] = {}
    for row in rows:
        for length, share, loss in _results(row):
            lines.setdefault((row["task"], length), {})[row["stage"]] = share, loss
    head = ["task", "tokens", *(f"{label} {what}" for label in labels for what in ("hits", "loss"))]
    body = [
        [task, f"{length:,}", *(text for label in labels for text in by.get(label, ("", "")))]
        for (task, length), by in lines.items()
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    return "".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in [head, *body]
    )


def _results(row: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """Returns length, share of hits or accuracy, and loss, empty without one; of LongPPL its logarithm."""
    if row["task"] == LONG_PERPLEXITY:
        of_keys = row["long_perplexity"]
        return [(row["length"], "", number(math.log(of_keys)) if of_keys else "")]
    if row["task"] == ACCURACY:
        return [(one["length"], f"{one['accuracy']:.1%}", "") for one in row["lengths"]]
    if row.get("kind") != PROMPTS:
        return [(row["sequence_length"], "", number(row["loss"]))]
    return [
        (length, f"{score.share:.1%}", number(score.loss))
        for length, score in scores_by_length(row["cells"]).items()
    ]
