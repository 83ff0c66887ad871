"""The residual stream on the tensor axis: cut by tokens, gathered only where a matrix product needs all tokens.

The stream is taken in pieces, four or as many as there are tokens, and each piece is cut among the ranks:

    all tokens (T)     [ A0 | A1 ][ B0 | B1 ][ C0 | C1 ][ D0 | D1 ]
    rank 1 (T / n)     [ A1 | B1 | C1 | D1 ]              also between pipeline stages and before the loss

So a piece arrives as contiguous tokens, in one call, and the transfer of the next ones overlaps with computation on
it. Nothing is copied: all pieces arrive in one buffer, in stream order. With four pieces a quarter of the transfer is
not overlapped, and the rounding error of bfloat16 gradients (summed over the pieces) grows by a tenth. Source of the
token-wise cut: arXiv 2205.05198.

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
    """Returns the pieces as views: of all tokens of `num_parts` tensor ranks, or (1) of one rank's tokens."""
    rows = x_TD.shape[0] // num_parts
    count = min(PIECES, rows)
    each, longer = divmod(rows, count)
    return x_TD.split_with_sizes([(each + (i < longer)) * num_parts for i in range(count)])


def by_rank(x_T: Tensor, num_ranks: int) -> Tensor:
    """(T,) in stream order to (n, T / n): row r has the values of the tokens of tensor rank r."""
    return torch.cat([piece.reshape(num_ranks, -1) for piece in pieces(x_T, num_ranks)], dim=1)


def in_stream_order(x_NT: Tensor) -> Tensor:
    """Inverts `by_rank`: (n, T / n) to (T,) in stream order."""
    return torch.cat([piece.t().flatten() for piece in pieces(x_NT.t())])


class Arriving:
    """The gather of all tokens from every rank's (T / n, D). Call `piece` `count` times, then `whole` if needed."""

    def __init__(self, x_TD: Tensor, group: AxisGroup) -> None:
        self._whole_TD = x_TD.new_empty(group.size * x_TD.shape[0], *x_TD.shape[1:])
        into = pieces(self._whole_TD, group.size)
        # With `data` autograd treats each piece as a separate tensor, not as a view of a buffer that changes later.
        self._under_way = [
            start_gather(x, group, part.data) for x, part in zip(pieces(x_TD), into, strict=True)
        ]
        self._landed: list[Tensor] = []
        self.count = len(self._under_way)

    def piece(self) -> Tensor:
        """Waits for the next piece and returns it: tokens of all ranks."""
        self._landed.append(self._under_way[len(self._landed)].finish())
        return self._landed[-1]

    def whole(self) -> Tensor:
        """Returns all tokens (T, D), in the memory of the pieces."""
        whole_TD: Tensor = _EndToEnd.apply(self._whole_TD, *self._landed)  # type: ignore[no-untyped-call]
        return whole_TD


class Leaving:
    """The reduce-scatter of partial sums for all tokens to the sums of this rank's tokens. Send the pieces in order.

    ends_block: no later operation of the block keeps a tensor for the backward. Then a recomputation, which stops
    after the last kept tensor, never needs the sums, and sends nothing.
    """

    def __init__(self, group: AxisGroup, *, ends_block: bool) -> None:
        self._group = group
        self._under_way: list[StartedCollective] = []
        # A forward inside a backward is a recomputation.
        self._unread = ends_block and torch._C._current_graph_task_id() != -1

    def send(self, piece_TD: Tensor) -> None:
        """Starts the transfer of the next piece: partial sums of the tokens of all ranks."""
        if not self._unread:
            self._under_way.append(start_scatter_sum(piece_TD, self._group))

    def landed(self) -> Tensor:
        """Waits for all pieces; returns (T / n, D), the sums over all ranks."""
        assert not self._unread, "a recomputation continued after the last kept tensor"
        return torch.cat([piece.finish() for piece in self._under_way])


def leave(x_TD: Tensor, group: AxisGroup) -> Tensor:
    """Reduce-scatters partial sums of all tokens (T, D) to the sums of this rank's tokens (T / n, D)."""
    leaving = Leaving(group, ends_block=False)
    for piece_TD in pieces(x_TD, group.size):
        leaving.send(piece_TD)
    return leaving.landed()


class _EndToEnd(torch.autograd.Function):
    """The concatenation of pieces that are contiguous in `whole_TD` already, without a copy."""

    @staticmethod
    def forward(ctx: Any, whole_TD: Tensor, *pieces_TD: Tensor) -> Tensor:
        ctx.rows = [piece.shape[0] for piece in pieces_TD]
        return whole_TD.data

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_TD: Tensor) -> tuple[Tensor | None, ...]:
        return None, *d_TD.split_with_sizes(ctx.rows)
