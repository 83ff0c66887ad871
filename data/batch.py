"""Packed streams: the values that the packer hands to the trainer.

A micro-batch is one stream of T tokens, a whole number of rows laid end to end, each row a whole
number of segments. The model uses only the attention documents and the positions, by default those of the
segments (packing/document_rules.py); no segment crosses the end of a row. Where several ranks share a stream,
each reads its own ranges of it.

    row 0                         row 1
    [ span a ][ span b ][padding] [ span c            ]      segments 3, 2, 1, 6
                                                             lengths = (3, 2, 1, 6), without document_mask (5, 1, 6)
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.labels import LabelMasks
from data.packing.positions import PLAIN, Placing, Positions
from data.packing.spans import Span, count_valid, rows_of_rank, starts_of

# Target of a token that has none: the last token of a segment, one before a token without a label, and padding. The
# same as torch's `ignore_index` and IGNORE in model/logits.py.
IGNORE = -100


class Share(Protocol):
    """The part of a stream that one rank holds, where ranks share streams."""

    @property
    def ranges(self) -> Sequence[range]:
        """Stream positions held, ascending and disjoint."""


# See `BatchShape.windows`.
Windows = tuple[tuple[str, int], ...]
# Computes this rank's share of a stream from the lengths of its attention documents and the windows of the step.
Dealer = Callable[[tuple[int, ...], Windows], Share]


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch on the CPU: a stream of T tokens, or this rank's share of one.

    tokens_T, targets_T: int64, the tokens held here. Of the whole stream, in order: lengths of the documents that
    attention stays within, padding included; starts of all segments, padding included; valid_tokens, the number of
    targets other than IGNORE; padding_tokens; spans, the segments without padding. share: None where the whole stream
    is held. sources_T: int16, the source number of every token held here (arbitrary for padding); None where there is
    one source. positions_T: int64, positions of the tokens held here; None where a token's position is its place in its
    attention document.
    """

    tokens_T: Tensor
    targets_T: Tensor
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    valid_tokens: int
    padding_tokens: int
    spans: tuple[Span, ...]
    share: Share | None = None
    sources_T: Tensor | None = None
    positions_T: Tensor | None = None

    def place_in_segment_T(self) -> np.ndarray:  # noqa: N802
        """int64: the place in its segment of every token held here."""
        return Positions.from_starts(self.starts).of(self.ranges)

    @property
    def ranges(self) -> Sequence[range]:
        """Stream positions of `tokens_T`."""
        return [range(sum(self.lengths))] if self.share is None else self.share.ranges


class TokenReader(LabelMasks, Protocol):
    """Interface of a source that returns a piece of a document as a one-dimensional integer array, and its labels."""

    def read(self, document: int, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True)
class RankReader:
    """Reads one rank's part of planned rows.

    Raises ValueError for a rank outside the data axis.
    """

    sources: Sequence[TokenReader]
    # Token that fills rows up: the end token of documents.
    pad_id: int
    dp_rank: int = 0
    dp_size: int = 1
    # Computes the part of each stream that this rank holds, where ranks share streams; None: all of it.
    deal: Dealer | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.dp_rank < self.dp_size:
            raise ValueError(f"dp_rank={self.dp_rank}: must be in [0, dp_size={self.dp_size})")

    def read(
        self,
        rows: Sequence[Sequence[Span]],
        sequence_length: int,
        rows_each: int,
        placing: Placing = PLAIN,
    ) -> tuple[PackedBatch, ...]:
        """This rank's micro-batches, of `rows_each` rows each, from the rows of all ranks."""
        dealt = rows_of_rank(len(rows), rows_each, dp_rank=self.dp_rank, dp_size=self.dp_size)
        return tuple(
            assemble(
                [rows[number] for number in numbers],
                sequence_length,
                readers=self.sources,
                pad_id=self.pad_id,
                deal=self.deal,
                placing=placing.of_row(numbers.start),
            )
            for numbers in dealt
        )


def assemble(
    rows: Sequence[Sequence[Span]],
    sequence_length: int,
    *,
    readers: Sequence[TokenReader],
    pad_id: int,
    deal: Dealer | None = None,
    placing: Placing = PLAIN,
) -> PackedBatch:
    """Lay `rows` end to end, each padded to `sequence_length`, and read the tokens held here.

    Only the tokens of this rank's share are read (and the token after each piece, as a target). A row
    without spans is one segment of padding.
    """
    segments = _lay_out(rows, sequence_length)
    starts = starts_of([length for _, length in segments])
    spans = [span for span, _ in segments]
    row_lengths = [[span.length for span in row] for row in rows]
    lengths = placing.rules.attention_documents(row_lengths, sequence_length)
    share = None if deal is None else deal(lengths, placing.windows)
    ranges = [range(len(rows) * sequence_length)] if share is None else share.ranges
    held = sum(len(piece) for piece in ranges)
    tokens_T = np.full(held, pad_id, dtype=np.int64)
    targets_T = np.full(held, IGNORE, dtype=np.int64)
    sources_T = np.zeros(held, dtype=np.int16)
    offset = 0
    for piece in ranges:
        part = slice(offset, offset + len(piece))
        into = tokens_T[part], targets_T[part], sources_T[part]
        _read(piece, spans, starts, readers=readers, into=into)
        offset += len(piece)
    positions_T = None
    if not placing.rules.plain_positions:
        of_stream = Positions.of_rows(row_lengths, sequence_length, placing)
        positions_T = torch.from_numpy(of_stream.of(ranges))
    return PackedBatch(
        tokens_T=torch.from_numpy(tokens_T),
        targets_T=torch.from_numpy(targets_T),
        lengths=lengths,
        starts=starts,
        valid_tokens=count_valid(rows),
        padding_tokens=sum(length for span, length in segments if span is None),
        spans=tuple(span for span in spans if span is not None),
        share=share,
        sources_T=torch.from_numpy(sources_T) if len(readers) > 1 else None,
        positions_T=positions_T,
    )


def _lay_out(rows: Sequence[Sequence[Span]], sequence_length: int) -> list[tuple[Span | None, int]]:
    """All segments of the stream in order, each a span (None for padding) and its length."""
    segments: list[tuple[Span | None, int]] = []
    for row in rows:
        segments += [(span, span.length) for span in row]
        gap = sequence_length - sum(span.length for span in row)
        assert gap >= 0, f"row of {sequence_length - gap} tokens > {sequence_length}"
        if gap:
            segments.append((None, gap))
    return segments


def _read(
    piece: range,
    spans: Sequence[Span | None],
    starts: Sequence[int],
    *,
    readers: Sequence[TokenReader],
    into: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Fill tokens, targets and sources of one range of the stream from the segments in it."""
    tokens_T, targets_T, sources_T = into
    first = max(0, bisect_right(starts, piece.start) - 1)
    for span, at in zip(spans[first:], starts[first:], strict=True):
        if at >= piece.stop:
            break
        if span is None:
            continue
        begin, end = max(at, piece.start), min(at + span.length, piece.stop)
        if begin >= end:
            continue
        # A token's target is the next token of its span; it may lie beyond this piece.
        labelled = min(end, at + span.length - 1)
        wanted = max(end, labelled + 1) - begin
        reader = readers[span.source]
        read = reader.read(span.document, span.start + begin - at, wanted)
        here = slice(begin - piece.start, end - piece.start)
        tokens_T[here] = read[: end - begin]
        sources_T[here] = span.source
        mask = reader.label_mask(span.document, span.start + begin - at, wanted)
        following = slice(begin - piece.start, labelled - piece.start)
        targets_T[following] = _targets(read, mask)[: labelled - begin]
        if mask is not None and wanted == span.length:
            _check_count(span, mask)


def _targets(read: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The target of each of these tokens but the last, int64. mask: which of them have a label; None: all."""
    targets = read[1:].astype(np.int64)
    if mask is not None:
        targets[~mask[1:]] = IGNORE
    return targets


def _check_count(span: Span, mask: np.ndarray) -> None:
    """Notices a source whose labels in a whole span are not as many as it counts: the loss would be wrong."""
    found = int(mask[1:].sum())
    assert found == span.valid, f"{found} labels in {span}"
