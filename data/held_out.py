"""Held-out streams for evaluation: the same rows (`held_out_rows.py`) for every number of ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.batch import PackedBatch, RankReader
from data.held_out_rows import HeldOutSource, evaluation_rows
from data.packing.mixture import LengthSource
from data.packing.positions import PLAIN, Placing
from data.packing.spans import Span, count_valid


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


def evaluation_batches(
    source: HeldOutSource,
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
    return batches_of_rows(
        evaluation_rows(source, sequence_length, max_tokens),
        reader,
        sequence_length=sequence_length,
        micro_batch_tokens=micro_batch_tokens,
        placing=placing,
    )


def batches_of_rows(
    chosen: tuple[list[list[Span]], bool],
    reader: RankReader,
    *,
    sequence_length: int,
    micro_batch_tokens: int,
    placing: Placing = PLAIN,
) -> EvaluationSet:
    """This rank's micro-batches of these rows; reads no other rank's tokens. chosen: as from `evaluation_rows`.

    Otherwise as `evaluation_batches`.
    """
    rows_each, rest = divmod(micro_batch_tokens, sequence_length)
    if rest or not rows_each:
        raise ValueError(
            f"micro_batch_tokens={micro_batch_tokens}: must be a multiple of sequence_length={sequence_length}"
        )
    rows, contiguous = chosen
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
