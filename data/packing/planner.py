"""Plans the rows: which spans make up each row, from lengths alone and equally on every rank.

    each source --shuffled order--> its pool of `look_ahead` spans --rows--> list of spans per row

best_fit  A row starts with a span of the source with the largest credit, drawn by a
          length-weighted lottery, so that a long document is spread over many batches instead of
          filling hundreds of rows in succession. Of a span longer than the row, the first tokens are
          used and the remainder returns to the pool. Then the largest span that fits is added, again
          and again, from any source not more than AHEAD_ROWS rows ahead of its weight. If a gap of
          at least sequence_length / GAP_SHARE is left, the shortest span of at least twice the gap
          (or else the longest) is cut to fill it; a smaller gap becomes padding. Padding is
          therefore below 1 / GAP_SHARE for every corpus.
concat    Documents end to end in shuffled order, each from the source with the largest credit, cut
          at row borders; no padding.

Every token of every document is in exactly one span per epoch. The rows are a pure function of
(seed, corpus, sequence of shapes), independent of dp_size, micro-batch size and prefetching.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from data.config import DEFAULT_LOOK_AHEAD, PackingMethod
from data.packing.document_order import mix_integers
from data.packing.mixture import DocumentOrder, LengthSource, Shares
from data.packing.positions import Placing
from data.packing.span_pool import SpanPool
from data.packing.spans import BatchShape, Span

GAP_SHARE = 128
AHEAD_ROWS = 4
_LOTTERY = 0x4C4F_5454


class BatchPlanner:
    """Plans global batches. `plan` advances; `state_dict` returns the cursor.

    Raises ValueError for an unknown method or a look-ahead below 1.
    """

    def __init__(
        self,
        sources: Sequence[LengthSource],
        *,
        seed: int,
        method: str = "best_fit",
        look_ahead: int = DEFAULT_LOOK_AHEAD,
    ) -> None:
        if method not in get_args(PackingMethod):
            raise ValueError(
                f"packing={method}: unknown; use {' or '.join(get_args(PackingMethod))}"
            )
        if look_ahead < 1:
            raise ValueError(
                f"look_ahead={look_ahead}: must be at least 1; use {DEFAULT_LOOK_AHEAD}"
            )
        self._labels = tuple(sources)
        self._num_documents = [source.num_documents for source in sources]
        self._orders = [
            DocumentOrder(documents, source=number, seed=seed)
            for number, documents in enumerate(sources)
        ]
        self._seed = seed
        self._method = method
        self._wanted = look_ahead if method == "best_fit" else 1
        self._pools = [SpanPool(self._wanted + 1) for _ in sources]
        self._shares = Shares(len(sources))
        self._rows = 0
        self._serial = 0
        # For concat: the source whose document the last row has cut, -1 if the row ended with a document.
        self._open_source = -1

    def plan(self, shape: BatchShape) -> list[list[Span]]:
        """The rows of the next global batch, in order; each has at most sequence_length tokens."""
        if len(shape.weights) != len(self._num_documents) or sum(shape.weights) <= 0:
            raise ValueError(
                f"weights={shape.weights}: need one per source ({len(self._num_documents)}), not"
                " all zero"
            )
        self._shares.adopt(shape.weights)
        row = self._best_fit_row if self._method == "best_fit" else self._concat_row
        return [row(shape.sequence_length) for _ in range(shape.num_rows)]

    def placing(self, shape: BatchShape) -> Placing:
        """How the rows of the next global batch are placed in streams; ask before `plan`."""
        return Placing(shape.rules, self._seed, self._rows, shape.windows)

    def _filled_pool(self, source: int) -> SpanPool:
        pool = self._pools[source]
        while len(pool) < self._wanted:
            pool.add(self._serial, self._orders[source].next())
            self._serial += 1
        return pool

    def _place(self, entry: tuple[int, Span], limit: int) -> Span:
        """Returns the first `limit` tokens of a span taken from its pool, with the number of targets that count; puts
        the remainder back."""
        serial, span = entry
        if span.length > limit:
            source, document, start, epoch = span.source, span.document, span.start, span.epoch
            rest = Span(source, document, start + limit, span.length - limit, epoch)
            self._pools[source].add(serial, rest)
            span = Span(source, document, start, limit, epoch)
        self._shares.spend(span.source, span.length)
        return span.counted(self._labels[span.source])

    def _best_fit_row(self, length: int) -> list[Span]:
        pool = self._filled_pool(self._shares.most_behind())
        draw = mix_integers(self._seed, _LOTTERY, self._rows)
        self._rows += 1
        row = [self._place(pool.take_weighted(draw), length)]
        gap = length - row[0].length
        while gap:
            near = self._shares.within(AHEAD_ROWS * length)
            pools = [self._filled_pool(source) for source in near]
            pool = max(pools, key=lambda candidate: candidate.largest(gap))
            entry = pool.take_largest(gap)
            if entry is None:
                if gap * GAP_SHARE < length:
                    break
                entry = pools[0].take_smallest(2 * gap) or pools[0].take_longest()
            row.append(self._place(entry, gap))
            gap -= row[-1].length
        return row

    def _concat_row(self, length: int) -> list[Span]:
        row: list[Span] = []
        gap = length
        self._rows += 1
        while gap:
            source = self._open_source
            if source < 0 or not self._shares.has_weight(source):
                source = self._shares.most_behind()
            entry = self._filled_pool(source).take_oldest()
            row.append(self._place(entry, gap))
            gap -= row[-1].length
            self._open_source = source if row[-1].length < entry[1].length else -1
        return row

    def state_dict(self) -> dict[str, Any]:
        """The cursor: plain JSON that is needed to plan the next batch; it grows with the look-ahead.

        pools: per source, [serial, document, start, length, epoch] of each waiting span.
        """
        return {
            "seed": self._seed,
            "num_documents": list(self._num_documents),
            "rows": self._rows,
            "serial": self._serial,
            "open_source": self._open_source,
            "drawn": [order.drawn for order in self._orders],
            **self._shares.state_dict(),
            "pools": [
                [[n, s.document, s.start, s.length, s.epoch] for n, s in pool.entries()]
                for pool in self._pools
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a cursor; packing method and look-ahead may differ.

        Raises ValueError if the cursor belongs to another seed or corpus.
        """
        for key, mine in (("seed", self._seed), ("num_documents", self._num_documents)):
            if state[key] != mine:
                raise ValueError(
                    f"cursor.{key}={state[key]}: this run has {mine}; resume with the same sources"
                    " and seed, or start anew with checkpoint.resume=never"
                )
        self._shares.load_state_dict(state)
        self._rows = int(state["rows"])
        self._serial = int(state["serial"])
        self._open_source = int(state["open_source"])
        for source, spans in enumerate(state["pools"]):
            self._orders[source].drawn = int(state["drawn"][source])
            pool = SpanPool(max(self._wanted, len(spans)) + 1)
            pool.extend((serial, Span(source, *fields)) for serial, *fields in spans)
            self._pools[source] = pool
