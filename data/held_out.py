"""Held-out rows for evaluation: the same rows for every number of ranks.

To compare losses by position, every position must be averaged over the same documents. So at
length L only documents of at least L tokens are used, one segment per row: the first L tokens of
each, then the second L tokens of those that are long enough, and so on; a piece without any target that counts is
passed over while another has one. If no document is that long, whole shorter documents are packed, longest first.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from data.batch import PackedBatch, RankReader
from data.packing.document_order import shuffled
from data.packing.mixture import LengthSource
from data.packing.positions import PLAIN, Placing
from data.packing.spans import Span, count_valid

CHUNK = 1 << 20


@dataclass(frozen=True)
class EvaluationSet:
    """One rank's share of the held-out rows.

    micro_batches: this rank's; every rank has the same number (the last may be pure padding), so that
    collectives inside a forward pass match. num_rows, total_tokens (without padding) and valid_tokens:
    summed over all ranks. contiguous: whether every row is one segment of L tokens.
    """

    micro_batches: tuple[PackedBatch, ...]
    num_rows: int
    total_tokens: int
    valid_tokens: int
    contiguous: bool

    def __iter__(self) -> Iterator[PackedBatch]:
        return iter(self.micro_batches)

    def __len__(self) -> int:
        return len(self.micro_batches)


def evaluation_rows(
    source: LengthSource, sequence_length: int, max_tokens: int
) -> tuple[list[list[Span]], bool]:
    """Rows of at most `max_tokens` together (at least one row), and whether each is one segment of full length."""
    most = max(1, max_tokens // sequence_length)
    order = shuffled(
        np.arange(source.num_documents), source.num_documents, seed=0, source=0, epoch=0
    )
    lengths = np.concatenate(
        [source.document_lengths(order[at : at + CHUNK]) for at in range(0, len(order), CHUNK)]
    )
    pieces = _pieces(source, order, lengths, sequence_length)
    rows = list(islice(([span] for span in pieces if span.valid), most))
    if not rows:  # no piece has a target that counts
        pieces = _pieces(source, order, lengths, sequence_length)
        rows = list(islice(([span] for span in pieces), most))
    if rows:
        return rows, True
    short = _pack_short(order, lengths, sequence_length, most)
    return [[span.counted(source) for span in row] for row in short], False


def _pieces(
    source: LengthSource, order: np.ndarray, lengths: np.ndarray, sequence_length: int
) -> Iterator[Span]:
    """The first piece of `sequence_length` tokens of each document that has one, then the second pieces, and so on."""
    for start in count(0, sequence_length):
        chosen = order[lengths >= start + sequence_length]
        if not len(chosen):
            return
        for document in chosen:
            yield Span(0, int(document), start, sequence_length, 0).counted(source)


def _pack_short(
    order: np.ndarray, lengths: np.ndarray, sequence_length: int, most: int
) -> list[list[Span]]:
    """Packs whole documents, longest first, each into the row with the smallest gap that it fits into."""
    rows: list[list[Span]] = []
    gaps: list[tuple[int, int]] = []
    for at in np.argsort(-lengths, kind="stable"):
        span = Span(0, int(order[at]), 0, int(lengths[at]), 0)
        if not span.length:
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


def evaluation_batches(
    source: LengthSource,
    reader: RankReader,
    *,
    sequence_length: int,
    micro_batch_tokens: int,
    max_tokens: int,
    placing: Placing = PLAIN,
) -> EvaluationSet:
    """This rank's micro-batches of the held-out rows.

    reader: of this source alone. placing: how rows are placed; its skips in positions are left out.

    Raises ValueError if micro_batch_tokens is not a multiple of sequence_length, or if there is no token.
    """
    rows_each, rest = divmod(micro_batch_tokens, sequence_length)
    if rest or not rows_each:
        raise ValueError(
            f"micro_batch_tokens={micro_batch_tokens}: must be a multiple of sequence_length={sequence_length}"
        )
    rows, contiguous = evaluation_rows(source, sequence_length, max_tokens)
    if not rows:
        raise ValueError("heldout: holds no token; prepare one that does")
    empty: list[list[Span]] = [[] for _ in range(-len(rows) % (rows_each * reader.dp_size))]
    return EvaluationSet(
        micro_batches=reader.read(rows + empty, sequence_length, rows_each, placing.without_pose()),
        num_rows=len(rows),
        total_tokens=sum(span.length for row in rows for span in row),
        valid_tokens=count_valid(rows),
        contiguous=contiguous,
    )


def document_batches(
    documents: Sequence[int],
    source: LengthSource,
    reader: RankReader,
    *,
    length: int,
    row_length: int,
    rows_each: int,
    placing: Placing = PLAIN,
) -> tuple[PackedBatch, ...]:
    """This rank's micro-batches of the first `length` tokens of each document: one a row, padded to `row_length`.

    reader: of this source alone. Every rank has the same number of micro-batches. placing: as in `evaluation_batches`.
    """
    spans = [Span(0, document, 0, length, 0).counted(source) for document in documents]
    return piece_batches(spans, reader, row_length=row_length, rows_each=rows_each, placing=placing)


def piece_batches(
    spans: Sequence[Span],
    reader: RankReader,
    *,
    row_length: int,
    rows_each: int,
    placing: Placing = PLAIN,
) -> tuple[PackedBatch, ...]:
    """This rank's micro-batches of pieces of documents: one a row, padded to `row_length`.

    spans: with their targets counted. Otherwise as `document_batches`.
    """
    rows = [[span] for span in spans]
    rows += [[] for _ in range(-len(rows) % (rows_each * reader.dp_size))]
    return reader.read(rows, row_length, rows_each, placing.without_pose())
