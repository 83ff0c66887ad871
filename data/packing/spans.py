"""Spans of documents, and the shape of one optimizer step: rows and micro-batches. Integers only.

The planner makes rows of spans; `rows_of_rank` selects the rows that each data-parallel rank reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from data.labels import LabelCounts
from data.packing.document_rules import BY_DOCUMENT, DocumentRules


@dataclass(frozen=True, slots=True)
class Span:
    """`length` tokens of a document of a source, from token `start` on, in pass `epoch` over it.

    unlabelled: targets of these tokens that do not count, as the source says; known once the span stands in a row.
    """

    source: int
    document: int
    start: int
    length: int
    epoch: int
    unlabelled: int = 0

    @property
    def valid(self) -> int:
        """Targets that count: all tokens but the last have one, except the `unlabelled`."""
        return self.length - 1 - self.unlabelled

    def counted(self, labels: LabelCounts) -> "Span":
        """This span with the number of its `unlabelled` targets."""
        valid = labels.count_labels(self.document, self.start, self.length)
        assert 0 <= valid < self.length, f"{valid} targets of {self} count"
        unlabelled = self.length - 1 - valid
        return replace(self, unlabelled=unlabelled) if unlabelled else self


@dataclass(frozen=True)
class BatchShape:
    """The shape of one optimizer step: rows of `sequence_length`, micro-batches of `micro_batch_tokens`
    on each data-parallel rank, `batch_tokens` over all ranks, the weight of each source, and how documents are kept
    apart.

    windows: (kind, keys) of each kind of layer whose window the stage sets, 0 keys for none; for the dealer.
    """

    sequence_length: int
    batch_tokens: int
    micro_batch_tokens: int
    weights: tuple[float, ...]
    rules: DocumentRules = BY_DOCUMENT
    windows: tuple[tuple[str, int], ...] = ()

    @property
    def position_length(self) -> int:
        """Length in tokens up to which positions reach: the target of PoSE, or else sequence_length."""
        pose = self.rules.pose
        return self.sequence_length if pose is None else pose.target_length

    @property
    def num_rows(self) -> int:
        """Rows of the global batch."""
        return self.batch_tokens // self.sequence_length

    @property
    def rows_per_micro_batch(self) -> int:
        """Rows of one micro-batch of one rank."""
        return self.micro_batch_tokens // self.sequence_length

    def num_micro_batches(self, dp_size: int) -> int:
        """Micro-batches of one step on each data-parallel rank."""
        return self.batch_tokens // (self.micro_batch_tokens * dp_size)

    def problems(self, dp_size: int) -> list[str]:
        """Returns every rule that is broken on `dp_size` data-parallel ranks, one line each."""
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


def rows_of_rank(num_rows: int, rows_each: int, *, dp_rank: int, dp_size: int) -> list[range]:
    """Row numbers of each micro-batch of one rank: groups of `rows_each` rows dealt round robin.

    Micro-batch m of rank d has n = `rows_each` rows, from row (m * dp_size + d) * n on.
    """
    n = rows_each
    return [range(group * n, (group + 1) * n) for group in range(dp_rank, num_rows // n, dp_size)]


def starts_of(lengths: Sequence[int]) -> tuple[int, ...]:
    """Stream position of the start of each segment, for segments of these lengths."""
    return tuple(accumulate(lengths[:-1], initial=0)) if lengths else ()


def count_valid(rows: Sequence[Sequence[Span]]) -> int:
    """Valid tokens of rows: the targets that count."""
    return sum(span.valid for row in rows for span in row)
