"""Chooses the held-out rows of an evaluation, from as few lengths of documents as it needs.

To compare losses by position, every position must be averaged over the same documents. So at
length L only documents of at least L tokens are used, one segment per row: the first L tokens of
each, then the second L tokens of those that are long enough, and so on; a piece without any target that counts is
passed over while another has one. If no document is that long, whole shorter documents are packed, longest first.

Documents are looked at in a shuffled order, and the search ends with the last row: of a hundred million documents a few
thousand lengths are asked for. A source that knows its longest document is not searched for a longer one.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import count, islice
from typing import Protocol

import numpy as np

from data.packing.document_order import shuffled
from data.packing.mixture import LengthSource
from data.packing.spans import Span

# Lengths asked for at a time: few at first, since those of some generated documents cost as much as the document.
_FIRST, _MOST = 1 << 6, 1 << 20
# Documents, the first ones of the shuffled order, from which rows are packed if none is long enough.
PACKED_FROM = 1 << 20


class HeldOutSource(LengthSource, Protocol):
    """Interface of a source of held-out documents."""

    @property
    def longest(self) -> int | None:
        """A length in tokens that no document exceeds; None: not known."""


def evaluation_rows(
    source: HeldOutSource, sequence_length: int, max_tokens: int
) -> tuple[list[list[Span]], bool]:
    """Rows of at most `max_tokens` together (at least one row), and whether each is one segment of full length."""
    most = max(1, max_tokens // sequence_length)
    documents = _Documents(source)
    if source.longest is None or source.longest >= sequence_length:
        pieces = _pieces(documents, sequence_length)
        rows = list(islice(([span] for span in pieces if span.valid), most))
        if not rows:  # no piece has a target that counts
            rows = list(islice(([span] for span in _pieces(documents, sequence_length)), most))
        if rows:
            return rows, True
    short = _pack_short(documents, sequence_length, most)
    return [[span.counted(source) for span in row] for row in short], False


class _Documents:
    """Documents of a source in shuffled order, with lengths that are asked for once."""

    def __init__(self, source: HeldOutSource) -> None:
        self.source = source
        self._known: list[tuple[np.ndarray, np.ndarray]] = []
        self._looked_at = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields numbers and lengths of documents, some at a time."""
        for number in count():
            if number == len(self._known) and not self._look():
                return
            yield self._known[number]

    def _look(self) -> bool:
        """Asks for more lengths; returns whether there are more."""
        total, begin = self.source.num_documents, self._looked_at
        self._looked_at = end = min(total, begin + min(max(_FIRST, begin), _MOST))
        if begin == end:
            return False
        documents = shuffled(np.arange(begin, end), total, seed=0, source=0, epoch=0)
        self._known.append((documents, self.source.document_lengths(documents)))
        return True


def _pieces(documents: _Documents, sequence_length: int) -> Iterator[Span]:
    """The first piece of `sequence_length` tokens of each document that has one, then the second pieces, and so on."""
    for start in count(0, sequence_length):
        found = False
        for numbers, lengths in documents:
            for document in numbers[lengths >= start + sequence_length]:
                found = True
                yield Span(0, int(document), start, sequence_length, 0).counted(documents.source)
        if not found:
            return


def _pack_short(documents: _Documents, sequence_length: int, most: int) -> list[list[Span]]:
    """Packs whole documents, longest first, each into the row with the smallest gap that it fits into."""
    looked_at = list(_first(documents, PACKED_FROM))
    order = np.concatenate([numbers for numbers, _ in looked_at] or [np.zeros(0, dtype=np.int64)])
    sizes = np.concatenate([lengths for _, lengths in looked_at] or [np.zeros(0, dtype=np.int64)])
    rows: list[list[Span]] = []
    gaps: list[tuple[int, int]] = []
    for at in np.argsort(-sizes, kind="stable"):
        span = Span(0, int(order[at]), 0, int(sizes[at]), 0)
        if not span.length or (len(rows) == most and not gaps):
            break
        place = bisect_left(gaps, (span.length, 0))
        if place < len(gaps):
            gap, row = gaps.pop(place)
            rows[row].append(span)
        elif len(rows) < most:
            gap, row = sequence_length, len(rows)
            rows.append([span])
        else:
            continue
        if gap > span.length:
            insort(gaps, (gap - span.length, row))
    return rows


def _first(documents: _Documents, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields numbers and lengths of at most so many documents."""
    for numbers, lengths in documents:
        yield numbers[:most], lengths[:most]
        most -= len(numbers)
        if most <= 0:
            return
