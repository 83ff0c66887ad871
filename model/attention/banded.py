"""Attention in pieces, so that windowed layers cost O(window x T) in time and memory: the CPU path.

A document longer than the window is cut in two parts. Its first `window` tokens see everything
before them, which is plain causal attention. The rest is cut into blocks of queries; a block sees
its own tokens and the window - 1 before it, all in the same document, so all blocks of all
documents share ONE small mask of diagonal bands.

    window 3, blocks of 2          keys   0 1 2 3 4 5 6
                                 query 0  x                   head: causal
                                       1  x x
                                       2  x x x
                                       3    x x x .           block: queries 3, 4; keys 1 to 4
                                       4    . x x x
                                       5        x x x .       block: queries 5, 6; keys 3 to 6
                                       6        . x x x

Documents not longer than the window, and documents of full layers, are plain causal attention; short
ones of similar length are padded into one batch. Blocks are overlapping views, keys and values are not
copied per block, and no piece spans two documents. Products and sums are float32 for
half-precision input (which on CPU is also faster), float64 for float64.

`attention.segments` cuts segments into these pieces. Queries and keys may lie in two streams (parallel attention): a
token's row in the key stream is then `shift` more than its row in the query stream.

Shape letters: T tokens, H query heads, G key/value heads, K head dimension; N, L, S as in
`attention.small_problems`.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from model.attention.kept import Attended
from model.attention.small_problems import Problem, attend, attend_backward
from model.norm import statistics_dtype

# Queries per block: the best of 32, 64, 128, 256 at windows 128 to 512 (see tests/benchmark).
_BLOCK = 64
# Blocks of one piece: bounds the memory of key gradients that are not yet added to the stream.
_BLOCKS_AT_ONCE = 32
# Causal spans up to this length are padded to similar lengths and batched.
LONGEST_BATCHED = 256
_PADDING = 16


class Piece(Protocol):
    """A part of the attention: a batch of problems of equal shape, and the stream rows of its queries and keys.

    causal: the meaning of no mask: True for causal attention, False if every query sees every key.
    """

    causal: ClassVar[bool]

    def mask(self, like: Tensor) -> Tensor | None:
        """Additive mask (L, S), or None."""

    def queries(self, x_THK: Tensor) -> Tensor:
        """The queries' rows of a stream, (N, H, L, K)."""

    def keys(self, x_TGK: Tensor) -> Tensor:
        """The keys' rows of a stream, (N, G, S, K)."""

    def put_queries(self, x_THK: Tensor, rows_NHLK: Tensor) -> None:
        """Write the queries' rows into a stream; no two pieces share a query."""

    def add_keys(self, x_TGK: Tensor, rows_NGSK: Tensor) -> None:
        """Add the keys' rows to a stream; blocks share keys."""


@dataclass(frozen=True)
class Span:
    """Causal attention among the tokens [start, start + length)."""

    causal: ClassVar[bool] = True
    start: int
    length: int
    shift: int = 0

    def mask(self, like: Tensor) -> Tensor | None:  # noqa: ARG002
        return None

    def queries(self, x_THK: Tensor) -> Tensor:
        return x_THK[self.start : self.start + self.length].transpose(0, 1)[None]

    def keys(self, x_TGK: Tensor) -> Tensor:
        start = self.start + self.shift
        return x_TGK[start : start + self.length].transpose(0, 1)[None]

    def put_queries(self, x_THK: Tensor, rows_NHLK: Tensor) -> None:
        self.queries(x_THK).copy_(rows_NHLK)

    def add_keys(self, x_TGK: Tensor, rows_NGSK: Tensor) -> None:
        self.keys(x_TGK).add_(rows_NGSK)


@dataclass(frozen=True, eq=False)
class SpanBatch:
    """Causal attention within many short spans, each padded at its end with zeros to one length.

    tokens, key_tokens: int64 indices of all spans' tokens in the stream of queries and of keys. slots:
    rows of these tokens in the padded batch. count, length: number and padded length of the spans.
    """

    causal: ClassVar[bool] = True
    tokens: Tensor
    key_tokens: Tensor
    slots: Tensor
    count: int
    length: int

    def mask(self, like: Tensor) -> Tensor | None:  # noqa: ARG002
        return None

    def queries(self, x_THK: Tensor) -> Tensor:
        return self._padded(x_THK, self.tokens)

    def keys(self, x_TGK: Tensor) -> Tensor:
        return self._padded(x_TGK, self.key_tokens)

    def _padded(self, x_THK: Tensor, tokens: Tensor) -> Tensor:
        padded = x_THK.new_zeros(self.count * self.length, *x_THK.shape[1:])
        padded.index_copy_(0, self.slots, x_THK.index_select(0, tokens))
        return padded.view(self.count, self.length, *x_THK.shape[1:]).transpose(1, 2)

    def put_queries(self, x_THK: Tensor, rows_NHLK: Tensor) -> None:
        rows = rows_NHLK.transpose(1, 2).flatten(0, 1)
        x_THK.index_copy_(0, self.tokens, rows.index_select(0, self.slots))

    def add_keys(self, x_TGK: Tensor, rows_NGSK: Tensor) -> None:
        rows = rows_NGSK.transpose(1, 2).flatten(0, 1)
        x_TGK.index_add_(0, self.key_tokens, rows.index_select(0, self.slots))


@dataclass(frozen=True)
class Band:
    """Equal blocks of queries from token `first` on; each query sees itself and the window - 1 tokens before it.

    The window - 1 tokens before `first` belong to the same document.
    """

    causal: ClassVar[bool] = True
    first: int
    blocks: int
    block: int
    window: int
    shift: int = 0

    def mask(self, like: Tensor) -> Tensor | None:
        # Query i of a block is the token of key window - 1 + i and sees the keys i to window - 1 + i.
        ones = torch.ones(self.block, self._reach, dtype=torch.bool, device=like.device)
        seen_LS = ones.triu() & ones.tril(self.window - 1)
        return like.new_zeros(seen_LS.shape).masked_fill_(~seen_LS, float("-inf"))

    @property
    def _reach(self) -> int:
        return self.block + self.window - 1

    def queries(self, x_THK: Tensor) -> Tensor:
        rows = x_THK[self.first : self.first + self.blocks * self.block]
        return rows.view(self.blocks, self.block, *x_THK.shape[1:]).transpose(1, 2)

    def keys(self, x_TGK: Tensor) -> Tensor:
        return self._overlapping(x_TGK, 0, self._reach).transpose(1, 2)

    def put_queries(self, x_THK: Tensor, rows_NHLK: Tensor) -> None:
        self.queries(x_THK).copy_(rows_NHLK)

    def add_keys(self, x_TGK: Tensor, rows_NGSK: Tensor) -> None:
        # Key rows of neighbouring blocks overlap; slices of one block's width do not and are added one by one.
        rows_NSGK = rows_NGSK.transpose(1, 2)
        for offset in range(0, self._reach, self.block):
            part = rows_NSGK[:, offset : offset + self.block]
            self._overlapping(x_TGK, offset, part.shape[1]).add_(part)

    def _overlapping(self, x_TGK: Tensor, offset: int, width: int) -> Tensor:
        """View (N, width, G, K): `width` rows of every block, from its key `offset` on."""
        start = self.first + self.shift - (self.window - 1) + offset
        rows = x_TGK[start : start + (self.blocks - 1) * self.block + width]
        return rows.unfold(0, width, self.block).movedim(-1, 1)


def cut_bands(first: int, count: int, window: int, shift: int = 0) -> Iterator[Band]:
    """Yields the bands of `count` queries from row `first` on: whole blocks, then the rest.

    Each of these queries has at least window - 1 tokens of its own document before it.
    """
    blocks, rest = divmod(max(count, 0), _BLOCK)
    for done in range(0, blocks, _BLOCKS_AT_ONCE):
        at_once = min(_BLOCKS_AT_ONCE, blocks - done)
        yield Band(first + done * _BLOCK, at_once, _BLOCK, window, shift)
    if rest:
        yield Band(first + blocks * _BLOCK, 1, rest, window, shift)


def batch_spans(spans: Sequence[Span], device: torch.device) -> Iterator[Piece]:
    """Yields pieces for short spans: spans of similar length are padded into one batch."""
    similar: defaultdict[int, list[Span]] = defaultdict(list)
    for span in spans:
        similar[_padded(span.length)].append(span)
    for length, alike in similar.items():
        yield alike[0] if len(alike) == 1 else _batch(alike, length, device)


def _padded(length: int) -> int:
    """`length` rounded up to a power of two below _PADDING, and to a multiple of _PADDING above."""
    if length < _PADDING:
        return int(1 << (length - 1).bit_length())
    return -(-length // _PADDING) * _PADDING


def _batch(spans: Sequence[Span], length: int, device: torch.device) -> SpanBatch:
    lengths = torch.tensor([span.length for span in spans])
    within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(
        lengths
    )
    starts, shifts, slots = (
        torch.tensor(values).repeat_interleave(lengths)
        for values in (
            [span.start for span in spans],
            [span.shift for span in spans],
            [index * length for index in range(len(spans))],
        )
    )
    tokens = starts + within
    return SpanBatch(
        tokens.to(device),
        (tokens + shifts).to(device),
        (slots + within).to(device),
        len(spans),
        length,
    )


def attend_pieces(
    q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, plan: Sequence[Piece], softcap: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Output (T, H, K) and natural log-sum-exp (T, H) of all queries, in the dtype of `widen`."""
    q, k, v = widen(q_THK, k_SGK, v_SGK)
    o_THK = torch.empty_like(q)
    lse_TH = q.new_empty(q.shape[:2])
    for piece in plan:
        problem = _problem(piece, q, k, v, softcap)
        rows_NHLK, lse_NHL = attend(problem)
        piece.put_queries(o_THK, rows_NHLK)
        piece.put_queries(lse_TH[..., None], lse_NHL[..., None])
    return o_THK, lse_TH


def attend_pieces_backward(
    do_THK: Tensor,
    q_THK: Tensor,
    k_SGK: Tensor,
    v_SGK: Tensor,
    attended: Attended,
    plan: Sequence[Piece],
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values in the dtype of `widen`; zero for keys that no query sees."""
    q, k, v, o, do = widen(q_THK, k_SGK, v_SGK, attended.o_THK, do_THK)
    lse_TH1 = attended.lse_TH[..., None]
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for piece in plan:
        dq_NHLK, dk_NGSK, dv_NGSK = attend_backward(
            piece.queries(do),
            _problem(piece, q, k, v, softcap),
            piece.queries(o),
            piece.queries(lse_TH1)[..., 0],
        )
        piece.put_queries(dq, dq_NHLK)
        piece.add_keys(dk, dk_NGSK)
        piece.add_keys(dv, dv_NGSK)
    return dq, dk, dv


def _problem(piece: Piece, q: Tensor, k: Tensor, v: Tensor, softcap: float) -> Problem:
    """The problem of a piece, from streams that `widen` returned."""
    return Problem(
        piece.queries(q), piece.keys(k), piece.keys(v), piece.mask(q), piece.causal, softcap
    )


def widen(*streams: Tensor) -> list[Tensor]:
    """Contiguous streams in the dtype of sums: float64 for float64, float32 for all others."""
    return [x.to(statistics_dtype(x.dtype)).contiguous() for x in streams]
