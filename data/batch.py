"""Packed streams, the values that travel from the packer to the trainer.

A micro-batch is one stream of T tokens, a whole number of rows laid end to end, each row a whole
number of segments. Only segments matter to the model; rows are boundaries nothing crosses. Where
several ranks share a stream, each reads its own ranges of it.

    row 0                         row 1
    [ span a ][ span b ][padding] [ span c            ]      lengths = (3, 2, 1, 6)
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.packing.spans import Span, count_valid

IGNORE = -100
"""Target of a token that has no label: the last token of a segment, and padding."""


class Share(Protocol):
    """The part of a stream that one rank holds, where ranks share streams."""

    @property
    def ranges(self) -> Sequence[range]:
        """Stream positions held, ascending and disjoint."""


Dealer = Callable[[tuple[int, ...]], Share]
"""This rank's share of a stream, from the lengths of its segments."""


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch on the CPU: a stream of T tokens, or this rank's share of one.

    tokens_T, targets_T: int64, of the tokens held here. Of the whole stream: lengths, of every segment
    in order, padding included; valid_tokens, targets other than IGNORE; padding_tokens; spans, the real
    segments in order. share: None where the whole stream is held.
    """

    tokens_T: Tensor
    targets_T: Tensor
    lengths: tuple[int, ...]
    valid_tokens: int
    padding_tokens: int
    spans: tuple[Span, ...]
    share: Share | None = None

    @property
    def ranges(self) -> Sequence[range]:
        """Stream positions of `tokens_T`."""
        return [range(sum(self.lengths))] if self.share is None else self.share.ranges


class TokenReader(Protocol):
    """Whatever can hand out a piece of a document as a one-dimensional integer array."""

    def read(self, document: int, start: int, length: int) -> np.ndarray: ...


def assemble(
    rows: Sequence[Sequence[Span]],
    sequence_length: int,
    *,
    readers: Sequence[TokenReader],
    pad_id: int,
    deal: Dealer | None = None,
) -> PackedBatch:
    """Lay `rows` end to end, each filled up to `sequence_length`, and read what is held here.

    Only tokens of this rank's share are read (and the one after each piece, a label).  A row without
    spans is one segment of padding.
    """
    lengths, starts, padding = _lay_out(rows, sequence_length)
    spans = tuple(span for row in rows for span in row)
    share = None if deal is None else deal(lengths)
    ranges = [range(len(rows) * sequence_length)] if share is None else share.ranges
    held = sum(len(piece) for piece in ranges)
    tokens_T = np.full(held, pad_id, dtype=np.int64)
    targets_T = np.full(held, IGNORE, dtype=np.int64)
    offset = 0
    for piece in ranges:
        part = slice(offset, offset + len(piece))
        _read(piece, spans, starts, readers=readers, into=(tokens_T[part], targets_T[part]))
        offset += len(piece)
    return PackedBatch(
        tokens_T=torch.from_numpy(tokens_T),
        targets_T=torch.from_numpy(targets_T),
        lengths=lengths,
        valid_tokens=count_valid(rows),
        padding_tokens=padding,
        spans=spans,
        share=share,
    )


def _lay_out(
    rows: Sequence[Sequence[Span]], sequence_length: int
) -> tuple[tuple[int, ...], list[int], int]:
    """Lengths of all segments, where each span starts in the stream, and tokens of padding."""
    lengths: list[int] = []
    starts: list[int] = []
    padding = 0
    for number, row in enumerate(rows):
        at = number * sequence_length
        for span in row:
            starts.append(at)
            lengths.append(span.length)
            at += span.length
        gap = (number + 1) * sequence_length - at
        assert gap >= 0, f"row of {sequence_length - gap} tokens > {sequence_length}"
        if gap:
            lengths.append(gap)
            padding += gap
    return tuple(lengths), starts, padding


def _read(
    piece: range,
    spans: Sequence[Span],
    starts: Sequence[int],
    *,
    readers: Sequence[TokenReader],
    into: tuple[np.ndarray, np.ndarray],
) -> None:
    """Fill tokens and targets of one range of the stream from the spans that lie in it."""
    tokens_T, targets_T = into
    first = max(0, bisect_right(starts, piece.start) - 1)
    for span, at in zip(spans[first:], starts[first:], strict=True):
        if at >= piece.stop:
            break
        begin, end = max(at, piece.start), min(at + span.length, piece.stop)
        if begin >= end:
            continue
        # A token's target is the next token of its span; it may lie beyond this piece.
        labelled = min(end, at + span.length - 1)
        wanted = max(end, labelled + 1) - begin
        read = readers[span.source].read(span.document, span.start + begin - at, wanted)
        here = slice(begin - piece.start, end - piece.start)
        tokens_T[here] = read[: end - begin]
        targets_T[begin - piece.start : labelled - piece.start] = read[1 : 1 + labelled - begin]
