"""Attention of query segments over key segments, forward and backward as plain functions.

Parallel attention gets the keys in parts, some from other ranks, so it calls kernels itself: it needs the
log-sum-exp of each part to merge outputs, and a backward that takes the merged output and log-sum-exp.
Segment i has n_i queries and m_i keys; both lie end to end in their streams. Causal segments are aligned at
the bottom right (the last query sees the last key) and have n_i <= m_i, so that every query sees a key;
segments that are not causal are full rectangles.

    causal, n = 3, m = 5        window 2            not causal
    q 0   x x x . .             . x x . .  (0)      x x x x x
      1   x x x x .             . . x x .  (1)      x x x x x
      2   x x x x x             . . . x x  (2)      x x x x x

A kernel is one implementation of this. The one in this file runs on any device and dtype: it cuts segments into
the pieces of `attention.banded`, whose masks are never larger than a block's. `attention.flash` has those of GPUs.

Shape letters: T queries of all segments, S keys of all segments, H query heads, G key/value heads,
K head dimension; N, L, S as in `attention.small_problems` inside a piece.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from model.attention.backends import BANDED, Backend
from model.attention.banded import (
    LONGEST_BATCHED,
    Piece,
    Span,
    attend_pieces,
    attend_pieces_backward,
    batch_spans,
    cut_bands,
)
from model.attention.kept import Attended
from model.packed_layout import copy_to_device

# Queries of one masked block: its mask has this many rows and at most as many columns as the segment has keys.
_BLOCK = 64


# eq=False: compared by identity, like a layout.
@dataclass(frozen=True, eq=False)
class Segments:
    """Which queries see which keys.

    window: keys a query sees, itself included; None for all before it. Only causal segments have one.
    cu_queries, cu_keys: int32 (segments + 1,), offsets of the segments in their streams.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    causal: bool
    window: int | None
    cu_queries: Tensor
    cu_keys: Tensor

    @classmethod
    def from_lengths(
        cls,
        query_lengths: Sequence[int],
        key_lengths: Sequence[int],
        *,
        causal: bool,
        window: int | None = None,
    ) -> "Segments":
        """Segments of these lengths, laid end to end, on the CPU."""
        assert all(query_lengths), "a segment without queries"
        assert all(n <= m if causal else m for n, m in zip(query_lengths, key_lengths, strict=True))
        assert causal or window is None
        return cls(
            tuple(query_lengths),
            tuple(key_lengths),
            causal,
            window,
            torch.tensor([0, *accumulate(query_lengths)], dtype=torch.int32),
            torch.tensor([0, *accumulate(key_lengths)], dtype=torch.int32),
        )

    def to(self, device: torch.device | str) -> "Segments":
        """Copies the segments to another device; the host does not wait."""
        return replace(
            self,
            cu_queries=copy_to_device(self.cu_queries, device),
            cu_keys=copy_to_device(self.cu_keys, device),
        )

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces that the banded kernel runs, computed once."""
        return tuple(_cut(self))


class SegmentKernel(Protocol):
    """Forward and backward of one implementation. The segments cover every row of their streams."""

    backend: ClassVar[Backend]

    def __init__(self, softcap: float = 0.0) -> None:
        """softcap: may be other than 0 only if `backend.caps_scores`."""

    @staticmethod
    def missing(head_dim: int) -> str:
        """What this host lacks to run it: a package, or a GPU that supports this head dimension; empty if nothing."""

    def forward(
        self, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """Output (T, H, K) and natural log-sum-exp (T, H), which is float64 for float64 input, else float32.

        The output has the dtype of the log-sum-exp or of the queries.
        """

    def backward(
        self,
        do_THK: Tensor,
        q_THK: Tensor,
        k_SGK: Tensor,
        v_SGK: Tensor,
        o_THK: Tensor,
        lse_TH: Tensor,
        segments: Segments,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values through these segments.

        o_THK and lse_TH: output and log-sum-exp over ALL keys the queries see, these and any others.
        """


class BandedSegments:
    """Causal spans, bands and rectangles on torch's CPU flash kernels, or by formula elsewhere.

    softcap: scores s become softcap * tanh(s / softcap), by formula; 0: no cap.
    """

    backend: ClassVar[Backend] = BANDED

    def __init__(self, softcap: float = 0.0) -> None:
        self.softcap = softcap

    @staticmethod
    def missing(head_dim: int) -> str:  # noqa: ARG004
        """See `SegmentKernel`."""
        return ""

    def forward(
        self, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """See `SegmentKernel`."""
        return attend_pieces(q_THK, k_SGK, v_SGK, segments.pieces, self.softcap)

    def backward(
        self,
        do_THK: Tensor,
        q_THK: Tensor,
        k_SGK: Tensor,
        v_SGK: Tensor,
        o_THK: Tensor,
        lse_TH: Tensor,
        segments: Segments,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `SegmentKernel`."""
        return attend_pieces_backward(
            do_THK,
            q_THK,
            k_SGK,
            v_SGK,
            Attended(o_THK, lse_TH),
            segments.pieces,
            self.softcap,
        )


def _cut(segments: Segments) -> Iterator[Piece]:
    """Yields the pieces of all segments; every query is in exactly one piece."""
    short: list[Span] = []
    query = key = 0
    for queries, keys in zip(segments.query_lengths, segments.key_lengths, strict=True):
        reach = keys if segments.window is None else min(segments.window, keys)
        if not segments.causal:
            yield Rectangle(query, queries, key, keys)
        elif queries == keys:
            head = Span(query, min(queries, reach), key - query)
            if head.length > LONGEST_BATCHED:
                yield head
            else:
                short.append(head)
            yield from cut_bands(query + reach, queries - reach, reach, key - query)
        else:
            yield from _cut_ahead(query, queries, key, keys, reach)
        query, key = query + queries, key + keys
    yield from batch_spans(short, segments.cu_queries.device)


def _cut_ahead(query: int, queries: int, key: int, keys: int, reach: int) -> Iterator[Piece]:
    """Yields the pieces of a causal segment with more keys than queries.

    Queries that see fewer keys than the window allows are in corners, the others in bands.
    """
    ahead = keys - queries
    growing = min(queries, max(reach - 1 - ahead, 0))
    for done in range(0, growing, _BLOCK):
        block = min(_BLOCK, growing - done)
        yield Corner(query + done, block, key, ahead + done + block)
    # The token of query row r has key row r + (key + ahead - query).
    yield from cut_bands(query + growing, queries - growing, reach, key + ahead - query)


@dataclass(frozen=True)
class Rectangle:
    """Each of `num_queries` queries sees each of `num_keys` keys."""

    causal: ClassVar[bool] = False
    query: int
    num_queries: int
    key: int
    num_keys: int

    def mask(self, like: Tensor) -> Tensor | None:  # noqa: ARG002
        return None

    def queries(self, x_THK: Tensor) -> Tensor:
        return x_THK[self.query : self.query + self.num_queries].transpose(0, 1)[None]

    def keys(self, x_SGK: Tensor) -> Tensor:
        return x_SGK[self.key : self.key + self.num_keys].transpose(0, 1)[None]

    def put_queries(self, x_THK: Tensor, rows_NHLK: Tensor) -> None:
        self.queries(x_THK).copy_(rows_NHLK)

    def add_keys(self, x_SGK: Tensor, rows_NGSK: Tensor) -> None:
        self.keys(x_SGK).add_(rows_NGSK)


@dataclass(frozen=True)
class Corner(Rectangle):
    """A rectangle with a causal mask aligned at its bottom-right corner: the last query sees every key."""

    def mask(self, like: Tensor) -> Tensor | None:
        shape = (self.num_queries, self.num_keys)
        future_LS = torch.ones(shape, dtype=torch.bool, device=like.device)
        future_LS = future_LS.triu(self.num_keys - self.num_queries + 1)
        return like.new_zeros(shape).masked_fill_(future_LS, float("-inf"))
