"""Key tokens and LongPPL, from the losses of tokens with a long and with a short context.

    key token   l_short - l_long > alpha   and   l_long < beta
    LongPPL     exp(mean l_long over the key tokens) of a document; the mean over documents is weighted by key tokens

With a short context of K tokens, a token is a candidate if at least K tokens of its document come before it. The pieces
of the official form overlap: piece n begins at n * step, and the tokens that it scores are its last ones.

    document   |-------------------------------------|        K = 8, step = 4
    piece 0    |-------oooo|                                  o: scored, with 8 to 11 tokens before it
    piece 1        |-------oooo|

Source: arXiv 2410.23771, section 3 and the code of its authors. Losses are in nats; all arrays are on the host.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.batch import IGNORE, PackedBatch
from data.packing.spans import Span
from train.evaluation.greedy import places_in_stream


@dataclass(frozen=True)
class KeyRule:
    """context_tokens: K. alpha, beta: see the module."""

    context_tokens: int
    alpha: float
    beta: float

    def keys(self, long_N: np.ndarray, short_N: np.ndarray) -> np.ndarray:
        """Returns which of these candidates are key tokens, bool (N,)."""
        found: np.ndarray = (short_N - long_N > self.alpha) & (long_N < self.beta)
        return found


def pieces_of(spans: Iterable[Span], context_tokens: int, step_tokens: int) -> list[Span]:
    """Returns the pieces of the official form, in order; none of spans of up to `context_tokens` tokens.

    Targets are not counted.
    """
    return [
        Span(
            span.source,
            span.document,
            span.start + first,
            min(context_tokens + step_tokens, span.length - first),
            span.epoch,
        )
        for span in spans
        for first in range(0, span.length - context_tokens, step_tokens)
    ]


class Losses:
    """Losses of the tokens of spans of documents, one span after the other; each token has a place for its loss.

    values: float64 (3, N): loss with the long context, loss with the short one, and 1 for a token that counts.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        ordered = sorted(spans, key=_begin)
        self._begins = [_begin(span) for span in ordered]
        self._borders = np.cumsum([0, *(span.length for span in ordered)])
        self.values = np.zeros((3, int(self._borders[-1])))

    def add_long(self, packed: PackedBatch, row_length: int, losses_T: np.ndarray) -> None:
        """Adds what this rank holds of a stream of these spans, one a row. losses_T: of its tokens' targets."""
        at, _, counts_T = self._places(packed, row_length)
        self.values[0, at] = losses_T[counts_T]
        self.values[2, at] = 1.0

    def add_short(
        self, packed: PackedBatch, row_length: int, losses_T: np.ndarray, context_tokens: int
    ) -> None:
        """Adds losses with a short context, as `add_long`. The rows are these spans or pieces of them.

        Tokens with fewer than `context_tokens` tokens before them in their row are left out.
        """
        at, before, counts_T = self._places(packed, row_length)
        late = before >= context_tokens
        self.values[1, at[late]] = losses_T[counts_T][late]

    def by_span(self, rule: KeyRule) -> np.ndarray:
        """Returns sums over the tokens of every span, float64 (spans, 5).

        Columns: tokens, loss, candidates, key tokens, loss of key tokens.
        """
        long_N, short_N, counts_N = self.values
        first_N = np.repeat(self._borders[:-1], np.diff(self._borders))
        candidate_N = counts_N * (np.arange(len(first_N)) - first_N >= rule.context_tokens)
        key_N = candidate_N * rule.keys(long_N, short_N)
        columns = (counts_N, counts_N * long_N, candidate_N, key_N, key_N * long_N)
        return np.stack([np.add.reduceat(one, self._borders[:-1]) for one in columns], axis=1)

    def _places(
        self, packed: PackedBatch, row_length: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns, of the targets held here: places in `values`, tokens before them in their row.

        The third array says which tokens held here have such a target.
        """
        counts_T = packed.targets_T.numpy() != IGNORE
        rows, places = np.divmod(places_in_stream(packed)[counts_T], row_length)
        first = np.array([self._place_of(span) for span in packed.spans], dtype=np.int64)
        return first[rows] + places + 1, places + 1, counts_T

    def _place_of(self, piece: Span) -> int:
        number = bisect_right(self._begins, _begin(piece)) - 1
        return int(self._borders[number]) + piece.start - self._begins[number][1]


def _begin(span: Span) -> tuple[int, int]:
    return span.document, span.start


def summary(by_span: np.ndarray) -> dict[str, Any]:
    """Returns LongPPL, numbers of tokens and ordinary perplexity. by_span: see `Losses.by_span`.

    `long_perplexity` is the mean over documents, weighted by key tokens; None without a key token. `perplexity` is
    that of all tokens together.
    """
    tokens, loss, candidates, keys, _ = by_span.sum(axis=0)
    with_keys = by_span[by_span[:, 3] > 0]
    weights = with_keys[:, 3]
    of_documents = np.exp(with_keys[:, 4] / weights)
    return {
        "long_perplexity": float(np.average(of_documents, weights=weights)) if keys else None,
        "key_tokens": int(keys),
        "candidate_tokens": int(candidates),
        "tokens": int(tokens),
        "perplexity": _exp(loss / tokens) if tokens else None,
    }


def _exp(loss: float) -> float:
    """Returns e^loss; infinity where float64 has no such number."""
    with np.errstate(over="ignore"):
        return float(np.exp(loss))
