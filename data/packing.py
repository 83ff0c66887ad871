"""Which pieces of which documents make up each row: decided on lengths alone, the same everywhere.

    sources --Mixture--> pool of `look_ahead` spans --rows--> list of spans per row

best_fit  A row starts with a span drawn by a length-weighted lottery, so that a long document is
          spent at the rate of its tokens and not in hundreds of rows in a row.  A span longer than
          the row gives its first tokens, its remainder returns to the pool.  The rest of the row is
          filled with the largest span that fits, again and again.  If then a gap of at least
          sequence_length / GAP_SHARE is left, the shortest span of at least twice the gap (or else
          the longest) is cut to fill it; a smaller gap is padding.
concat    Documents end to end in shuffled order, cut at row boundaries; no padding.

Every token of every document is in exactly one span per epoch.  The rows are a pure function of
(seed, corpus, sequence of shapes): not of dp size, micro-batch size or how far anyone read ahead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data.batch import BatchShape, Span
from data.documents import mix_integers
from data.mixture import LengthSource, Mixture
from data.span_pool import SpanPool

METHODS = ("best_fit", "concat")
GAP_SHARE = 128
DEFAULT_LOOK_AHEAD = 1_024
_LOTTERY = 0x4C4F_5454


class BatchPlanner:
    """Plans global batches; `plan` advances, `state_dict` says where it stands.

    ValueError for an unknown method or a look-ahead below 1.
    """

    def __init__(
        self,
        sources: Sequence[LengthSource],
        *,
        seed: int,
        method: str = "best_fit",
        look_ahead: int = DEFAULT_LOOK_AHEAD,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"packing={method}: unknown; use {' or '.join(METHODS)}")
        if look_ahead < 1:
            raise ValueError(
                f"look_ahead={look_ahead}: must be at least 1; use {DEFAULT_LOOK_AHEAD}"
            )
        self._num_documents = [source.num_documents for source in sources]
        self._mixture = Mixture(sources, seed)
        self._seed = seed
        self._method = method
        self._wanted = look_ahead if method == "best_fit" else 1
        self._pool = SpanPool(self._wanted + 1)
        self._rows = 0
        self._serial = 0

    def plan(self, shape: BatchShape) -> list[list[Span]]:
        """The rows of the next global batch, in order; each is at most sequence_length long."""
        if len(shape.weights) != len(self._num_documents) or sum(shape.weights) <= 0:
            raise ValueError(
                f"weights={shape.weights}: need one per source ({len(self._num_documents)}), not"
                " all zero"
            )
        row = self._best_fit_row if self._method == "best_fit" else self._concat_row
        return [row(shape) for _ in range(shape.num_rows)]

    def _refill(self, weights: Sequence[float]) -> None:
        while len(self._pool) < self._wanted:
            self._pool.add(self._serial, self._mixture.next(weights))
            self._serial += 1

    def _use(self, entry: tuple[int, Span], limit: int) -> Span:
        """The first `limit` tokens of a span taken from the pool; the remainder goes back."""
        serial, span = entry
        if span.length <= limit:
            return span
        rest = Span(span.source, span.document, span.start + limit, span.length - limit, span.epoch)
        self._pool.add(serial, rest)
        return Span(span.source, span.document, span.start, limit, span.epoch)

    def _best_fit_row(self, shape: BatchShape) -> list[Span]:
        length = shape.sequence_length
        self._refill(shape.weights)
        draw = mix_integers(self._seed, _LOTTERY, self._rows)
        self._rows += 1
        row = [self._use(self._pool.take_weighted(draw), length)]
        gap = length - row[0].length
        while gap:
            self._refill(shape.weights)
            entry = self._pool.take_largest(gap)
            if entry is None:
                if gap * GAP_SHARE < length:
                    break
                entry = self._pool.take_smallest(2 * gap) or self._pool.take_longest()
            row.append(self._use(entry, gap))
            gap -= row[-1].length
        return row

    def _concat_row(self, shape: BatchShape) -> list[Span]:
        row: list[Span] = []
        gap = shape.sequence_length
        self._rows += 1
        while gap:
            self._refill(shape.weights)
            row.append(self._use(self._pool.take_oldest(), gap))
            gap -= row[-1].length
        return row

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON, as long as the look-ahead: what is needed to plan the next batch."""
        return {
            "seed": self._seed,
            "num_documents": list(self._num_documents),
            "rows": self._rows,
            "serial": self._serial,
            **self._mixture.state_dict(),
            "pool": [
                [serial, span.source, span.document, span.start, span.length, span.epoch]
                for serial, span in self._pool.entries()
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken; packing method and look-ahead may differ.

        ValueError when the state belongs to another seed or corpus.
        """
        for key, mine in (("seed", self._seed), ("num_documents", self._num_documents)):
            if state[key] != mine:
                raise ValueError(
                    f"cursor.{key}={state[key]}: this run has {mine}; resume with the same sources"
                    " and seed, or start anew with checkpoint.resume=never"
                )
        self._mixture.load_state_dict(state)
        self._rows = int(state["rows"])
        self._serial = int(state["serial"])
        self._pool = SpanPool(max(self._wanted, len(state["pool"])) + 1)
        self._pool.extend((serial, Span(*fields)) for serial, *fields in state["pool"])
