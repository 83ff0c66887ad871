"""The residual stream between the cut matrices: cut by tokens, whole only where a product needs it.

The stream is taken in pieces, four or as many as there are tokens, and each piece is cut among the ranks:

    all tokens (T)     [ A0 | A1 ][ B0 | B1 ][ C0 | C1 ][ D0 | D1 ]
    rank 1 (T / n)     [ A1 | B1 | C1 | D1 ]              also between pipeline stages and before the loss

So a piece arrives as contiguous tokens, in one call, and while it is computed with the next ones are on
their way. Nothing is copied: all pieces arrive in one buffer, in stream order. With four, a quarter of what
is sent has to be waited for, and rounding of bfloat16 gradients (they add up over the pieces) grows by a tenth.
Source of the token-wise cut: arXiv 2205.05198.

Shape letters: T tokens, D width, N tensor ranks.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from parallel.collectives import StartedCollective, start_gather, start_scatter_sum
from parallel.mesh import AxisGroup
from parallel.tensor.cut import PIECES


def pieces(x_TD: Tensor, num_parts: int = 1) -> tuple[Tensor, ...]:
    """The pieces, views: of all tokens for `num_parts` tensor ranks, or of one rank's tokens."""
    rows = x_TD.shape[0] // num_parts
    count = min(PIECES, rows)
    each, longer = divmod(rows, count)
    return x_TD.split_with_sizes([(each + (i < longer)) * num_parts for i in range(count)])


def by_rank(x_T: Tensor, num_ranks: int) -> Tensor:
    """(T,) in stream order to (n, T / n): row r is what belongs to the tokens of tensor rank r."""
    return torch.cat([piece.reshape(num_ranks, -1) for piece in pieces(x_T, num_ranks)], dim=1)


def in_stream_order(x_NT: Tensor) -> Tensor:
    """The inverse of `by_rank`."""
    return torch.cat([piece.t().flatten() for piece in pieces(x_NT.t())])


class Arriving:
    """All tokens on their way, from every rank's (T / n, D): first every piece, in order, then `whole`."""

    def __init__(self, x_TD: Tensor, group: AxisGroup) -> None:
        self._whole_TD = x_TD.new_empty(group.size * x_TD.shape[0], *x_TD.shape[1:])
        into = pieces(self._whole_TD, group.size)
        # By `data` each piece is a tensor of its own to autograd, not a view of what fills bit by bit.
        self._under_way = [
            start_gather(x, group, part.data) for x, part in zip(pieces(x_TD), into, strict=True)
        ]
        self._landed: list[Tensor] = []
        self.count = len(self._under_way)

    def piece(self) -> Tensor:
        """The next piece, from all ranks."""
        self._landed.append(self._under_way[len(self._landed)].finish())
        return self._landed[-1]

    def whole(self) -> Tensor:
        """All tokens (T, D), in the memory of the pieces."""
        whole_TD: Tensor = _EndToEnd.apply(self._whole_TD, *self._landed)  # type: ignore[no-untyped-call]
        return whole_TD


class Leaving:
    """Partial sums on their way back, to the sums of this rank's tokens. Send the pieces in order.

    ends_block: nothing after it keeps anything for the backward. Then a recomputation, which stops at the
    last thing that is kept, never asks for the sums and sends nothing.
    """

    def __init__(self, group: AxisGroup, *, ends_block: bool) -> None:
        self._group = group
        self._under_way: list[StartedCollective] = []
        # A forward inside a backward is a recomputation.
        self._unread = ends_block and torch._C._current_graph_task_id() != -1

    def send(self, piece_TD: Tensor) -> None:
        """Start with a piece of all tokens."""
        if not self._unread:
            self._under_way.append(start_scatter_sum(piece_TD, self._group))

    def landed(self) -> Tensor:
        """(T / n, D), the sums over all ranks."""
        assert not self._unread, "a recomputation went past the last thing it had to keep"
        return torch.cat([piece.finish() for piece in self._under_way])


def leave(x_TD: Tensor, group: AxisGroup) -> Tensor:
    """From partial sums for all tokens (T, D) to the sums for this rank's (T / n, D)."""
    leaving = Leaving(group, ends_block=False)
    for piece_TD in pieces(x_TD, group.size):
        leaving.send(piece_TD)
    return leaving.landed()


class _EndToEnd(torch.autograd.Function):
    """Pieces that already lie end to end in a whole, as that whole."""

    @staticmethod
    def forward(ctx: Any, whole_TD: Tensor, *pieces_TD: Tensor) -> Tensor:
        ctx.rows = [piece.shape[0] for piece in pieces_TD]
        return whole_TD.data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_TD: Tensor) -> tuple[Tensor | None, ...]:
        return None, *d_TD.split_with_sizes(ctx.rows)
