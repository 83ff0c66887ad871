"""Reads the rows of long-context tasks in evaluation.jsonl: scores by length, and the effective length.

A row may come from any version and lack anything: cells without a whole number of prompts are left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# The `kind` of such a row.
PROMPTS = "prompts"
# The share of the score at the base length that a length must keep to count as effective.
EFFECTIVE_SHARE = 0.85


def effective_length(shares: Mapping[int, float], part: float = EFFECTIVE_SHARE) -> int | None:
    """Returns the longest length whose share of hits is at least `part` of that at the shortest, the base length.

    None without a length, or if the base length has no hit. The rule of RULER (arXiv 2404.06654), whose threshold is
    the score of another model at 4,096 tokens, relative to the model's own base.
    """
    base = shares[min(shares)] if shares else 0.0
    if base <= 0:
        return None
    return max(length for length, share in shares.items() if share >= part * base)


@dataclass(frozen=True)
class Score:
    """The score of some prompts. loss: nats a token of the answers; None if it is not known."""

    prompts: int
    hits: float
    loss: float | None

    @property
    def share(self) -> float:
        """Share of the prompts whose answer is predicted."""
        return self.hits / self.prompts


def scores_by_length(cells: Iterable[Mapping[str, Any]], part: str = "") -> dict[int, Score]:
    """Returns the score over all depths of each length, ascending. part: that of an entry such as `last_part`."""
    found = dict[int, list[Score]]()
    for cell in cells:
        score, length = score_of(cell, part), cell.get("length")
        if score is not None and type(length) is int and length > 0:
            found.setdefault(length, []).append(score)
    return {length: _together(scores) for length, scores in sorted(found.items())}


def score_of(cell: Mapping[str, Any], part: str = "") -> Score | None:
    """Returns the score of one cell, or of an entry of it with the same prompts; None if it has none."""
    inner = cell.get(part) if part else cell
    if not isinstance(inner, Mapping):
        return None
    prompts, hits, loss = (
        _finite(where.get(key))
        for where, key in ((cell, "prompts"), (inner, "hits"), (inner, "loss"))
    )
    if prompts is None or hits is None or not (prompts >= 1 and 0 <= hits <= prompts):
        return None
    return Score(int(prompts), hits, loss)


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and -1e300 < value < 1e300 else None


def _together(scores: list[Score]) -> Score:
    prompts = sum(one.prompts for one in scores)
    losses = [one.loss * one.prompts for one in scores if one.loss is not None]
    loss = sum(losses) / prompts if len(losses) == len(scores) else None
    return Score(prompts, sum(one.hits for one in scores), loss)
