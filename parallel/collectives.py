"""Differentiable, asynchronous all-gather and reduce-scatter of a stream of tokens over an axis.

    gather        rank r has part r, (T / n, D)                  every rank gets the stream, (T, D)
    scatter_sum   every rank has a summand of the stream (T, D)  rank r gets part r of the sum, (T / n, D)

Each is the other's backward. In both a rank receives (n - 1) / n of the stream. The transfer overlaps with what
is computed between start and finish, and in the backward with the gradients of that computation:

    forward    start, products, finish            backward    finish (starts), their gradients, start (waits)

The sum is computed here and not by the backend: an all-to-all in the tensor's own dtype (the bytes of a
reduce-scatter), then a sum in order of rank, in float32 or float64, rounded once. So the rounding error of
bfloat16 sums does not grow with the number of ranks, and the result does not depend on the transport.

Shape letters: T tokens, D anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.norm import statistics_dtype
from parallel.mesh import AxisGroup
from parallel.transfer import Transfer

# torch 2.13 renames `all_gather_into_tensor`.
_ALL_GATHER = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def launch_gather(x_TD: Tensor, group: AxisGroup, into_TD: Tensor | None = None) -> Transfer:
    """Starts an all-gather: parts in order of rank, (T, D), in `into_TD` if given. No gradients."""
    assert group.group is not None
    whole_TD = into_TD
    if whole_TD is None:
        whole_TD = x_TD.new_empty(group.size * x_TD.shape[0], *x_TD.shape[1:])
    work = _ALL_GATHER(whole_TD, x_TD.contiguous(), group=group.group, async_op=True)
    return Transfer([work], whole_TD)


def launch_exchange(x_TD: Tensor, group: AxisGroup) -> Transfer:
    """Starts an all-to-all: part r of `x_TD` goes to rank r; `add_up` sums the parts received. No gradients."""
    assert group.group is not None
    assert x_TD.shape[0] % group.size == 0
    received_TD = x_TD.new_empty(x_TD.shape)
    work = dist.all_to_all_single(received_TD, x_TD.contiguous(), group=group.group, async_op=True)
    return Transfer([work], received_TD)


def add_up(received_TD: Tensor, num_summands: int) -> Tensor:
    """Returns the sum of `num_summands` tensors concatenated in `received_TD`, in order, rounded once."""
    wide = statistics_dtype(received_TD.dtype)
    summands = received_TD.view(num_summands, -1, *received_TD.shape[1:])
    return summands.sum(0, dtype=wide).to(received_TD.dtype)


def sum_over_replicas(x: Tensor, group: AxisGroup, replicas: int) -> Tensor:
    """Returns the sum of `x` over this rank's block of `replicas` neighbouring ranks, with equal bits on all of them.

    One all-to-all in the dtype of `x`, on the group of the whole axis: the replicas need no group of their own, and
    up to four replicas of bfloat16 receive no more bytes than in a float32 all-reduce.
    """
    assert group.group is not None
    first = group.rank - group.rank % replicas
    splits = [x.numel() * (first <= rank < first + replicas) for rank in range(group.size)]
    sent = x.detach().reshape(1, -1).repeat(replicas, 1).flatten()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, splits, splits, group=group.group)
    return add_up(received, replicas).view(x.shape)


@dataclass(frozen=True)
class _Way:
    """One direction of a collective: how to start it, and how to turn the received buffer into the result."""

    launch: Callable[[Tensor, AxisGroup], Transfer]
    unpack: Callable[[Tensor, int], Tensor]


_GATHER = _Way(launch_gather, lambda received_TD, _: received_TD)
_SCATTER_SUM = _Way(launch_exchange, add_up)


class StartedCollective:
    """A differentiable collective that has been started. Call `finish` once for the result.

    The autograd graph keeps this object until the backward, so it drops every buffer as soon as possible.
    """

    def __init__(self, x_TD: Tensor, group: AxisGroup, forth: _Way, back: _Way) -> None:
        self._group, self._unpack, self._back = group, forth.unpack, back
        self._transfer: Transfer | None = None
        self._received_TD: Tensor | None
        self._received_TD = _Start.apply(x_TD, self, forth.launch)  # type: ignore[no-untyped-call]

    def finish(self) -> Tensor:
        """Waits for the result and returns it, differentiable with respect to the tensor that was sent."""
        received_TD, self._received_TD = self._received_TD, None
        result_TD: Tensor = _Finish.apply(received_TD, self)  # type: ignore[no-untyped-call]
        return result_TD

    def launch(self, launch: Callable[[Tensor, AxisGroup], Transfer], x_TD: Tensor) -> Tensor:
        """Starts one direction; returns the receive buffer, which is filled in the background."""
        self._transfer = launch(x_TD, self._group)
        return self._transfer.received

    def launch_back(self, d_TD: Tensor) -> Tensor:
        """Starts the transfer of the gradient."""
        return self.launch(self._back.launch, d_TD)

    def result(self) -> Tensor:
        """Waits for the forward transfer; returns its result."""
        return self._unpack(self._arrived(), self._group.size)

    def gradient(self) -> Tensor:
        """Waits for the backward transfer; returns the gradient."""
        return self._back.unpack(self._arrived(), self._group.size)

    def _arrived(self) -> Tensor:
        assert self._transfer is not None
        transfer, self._transfer = self._transfer, None
        return transfer.wait()


class _Start(torch.autograd.Function):
    """Starts the transfer in the forward, waits for the gradient in the backward.

    Its output is the receive buffer, still being filled; only `_Finish` reads it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        collective: StartedCollective,
        launch: Callable[[Tensor, AxisGroup], Transfer],
    ) -> Tensor:
        ctx.collective = collective
        return collective.launch(launch, x_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None, None]:
        return ctx.collective.gradient(), None, None


class _Finish(torch.autograd.Function):
    """Waits for the transfer in the forward, starts that of the gradient in the backward.

    Its gradient is the receive buffer, still being filled; only `_Start` reads it.
    """

    @staticmethod
    def forward(ctx: Any, _: Tensor, collective: StartedCollective) -> Tensor:
        ctx.collective = collective
        return collective.result()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_TD: Tensor) -> tuple[Tensor, None]:
        return ctx.collective.launch_back(d_TD), None


def start_gather(
    x_TD: Tensor, group: AxisGroup, into_TD: Tensor | None = None
) -> StartedCollective:
    """(T / n, D) to (T, D): the parts of all ranks in order of rank, in `into_TD` if given."""
    forth = replace(_GATHER, launch=partial(launch_gather, into_TD=into_TD))
    return StartedCollective(x_TD, group, forth, _SCATTER_SUM)


def start_scatter_sum(x_TD: Tensor, group: AxisGroup) -> StartedCollective:
    """(T, D) to (T / n, D): the sum over all ranks of their summands for this rank's part."""
    return StartedCollective(x_TD, group, _SCATTER_SUM, _GATHER)
