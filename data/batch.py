"""The values that travel from the packer to the trainer: spans of documents and packed streams.

A micro-batch is one stream of T tokens, a whole number of rows laid end to end, each row a whole
number of segments.  Only segments matter to the model; rows are boundaries nothing crosses.

    row 0                         row 1
    [ span a ][ span b ][padding] [ span c            ]      lengths = (3, 2, 1, 6)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""Target of a token that has no label: the last token of a segment, and padding."""


@dataclass(frozen=True, slots=True)
class Span:
    """`length` tokens of a document of a source, from token `start` on, in pass `epoch` over it."""

    source: int
    document: int
    start: int
    length: int
    epoch: int


@dataclass(frozen=True)
class PackedBatch:
    """One micro-batch: a stream of T tokens on the CPU.

    tokens_T, targets_T: int64 (T,); lengths: of every segment in stream order, padding included,
    summing to T; valid_tokens: targets other than IGNORE; spans: the real segments, in order.
    """

    tokens_T: Tensor
    targets_T: Tensor
    lengths: tuple[int, ...]
    valid_tokens: int
    padding_tokens: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class BatchShape:
    """How one optimizer step's tokens are cut: rows of `sequence_length`, micro-batches of
    `micro_batch_tokens` on each data-parallel rank, `batch_tokens` over all ranks, and the weight
    of each source."""

    sequence_length: int
    batch_tokens: int
    micro_batch_tokens: int
    weights: tuple[float, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the global batch."""
        return self.batch_tokens // self.sequence_length

    @property
    def rows_per_micro_batch(self) -> int:
        """Rows of one micro-batch of one rank."""
        return self.micro_batch_tokens // self.sequence_length

    def problems(self, dp_size: int) -> list[str]:
        """Every rule that is broken on `dp_size` data-parallel ranks, one clear line each."""
        found = [
            f"{name}={value}: must be at least 1"
            for name, value in (
                ("sequence_length", self.sequence_length),
                ("batch_tokens", self.batch_tokens),
                ("micro_batch_tokens", self.micro_batch_tokens),
            )
            if value < 1
        ]
        if found:
            return found
        micro, step = self.micro_batch_tokens, self.micro_batch_tokens * dp_size
        if micro % self.sequence_length:
            found.append(
                f"micro_batch_tokens={micro}: must be a multiple of sequence_length="
                f"{self.sequence_length}; use {_nearest(micro, self.sequence_length)}"
            )
        if self.batch_tokens % self.sequence_length:
            found.append(
                f"batch_tokens={self.batch_tokens}: must be a multiple of sequence_length="
                f"{self.sequence_length}; use {_nearest(self.batch_tokens, self.sequence_length)}"
            )
        if self.batch_tokens % step:
            found.append(
                f"batch_tokens={self.batch_tokens}: must be a multiple of micro_batch_tokens x"
                f" data-parallel ranks = {micro} x {dp_size} = {step}; use"
                f" {_nearest(self.batch_tokens, step)}"
            )
        return found


def _nearest(value: int, step: int) -> str:
    below = value // step * step
    return f"{below} or {below + step}" if below else str(step)


def rows_of_rank(shape: BatchShape, dp_rank: int, dp_size: int) -> list[range]:
    """Row numbers of each micro-batch of one rank: groups of rows dealt round robin.

    Micro-batch m of rank d holds rows [(m * dp_size + d) * n, ... + n), n rows a micro-batch.
    """
    n = shape.rows_per_micro_batch
    return [
        range(group * n, (group + 1) * n) for group in range(dp_rank, shape.num_rows // n, dp_size)
    ]


class TokenReader(Protocol):
    """Whatever can hand out a piece of a document as a one-dimensional integer array."""

    def read(self, document: int, start: int, length: int) -> np.ndarray: ...


def count_valid(rows: Sequence[Sequence[Span]]) -> int:
    """Labelled tokens of rows: every span has one label fewer than tokens."""
    return sum(span.length - 1 for row in rows for span in row)


def assemble(
    rows: Sequence[Sequence[Span]],
    sequence_length: int,
    *,
    readers: Sequence[TokenReader],
    pad_id: int,
) -> PackedBatch:
    """Read the tokens of `rows` and lay them end to end, each row filled up to `sequence_length`.

    Only the tokens named by the spans are read.  A row without spans is one segment of padding.
    """
    total = len(rows) * sequence_length
    tokens_T = np.full(total, pad_id, dtype=np.int64)
    targets_T = np.full(total, IGNORE, dtype=np.int64)
    lengths: list[int] = []
    padding = 0
    for number, row in enumerate(rows):
        at = number * sequence_length
        end_of_row = at + sequence_length
        for span in row:
            end = at + span.length
            tokens_T[at:end] = readers[span.source].read(span.document, span.start, span.length)
            targets_T[at : end - 1] = tokens_T[at + 1 : end]
            lengths.append(span.length)
            at = end
        assert at <= end_of_row, (
            f"row of {at - number * sequence_length} tokens > {sequence_length}"
        )
        if at < end_of_row:
            lengths.append(end_of_row - at)
            padding += end_of_row - at
    return PackedBatch(
        tokens_T=torch.from_numpy(tokens_T),
        targets_T=torch.from_numpy(targets_T),
        lengths=tuple(lengths),
        valid_tokens=count_valid(rows),
        padding_tokens=padding,
        spans=tuple(span for row in rows for span in row),
    )
