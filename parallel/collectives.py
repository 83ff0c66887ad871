"""Collectives that join and cut a stream of tokens over an axis: differentiable, and asynchronous where wanted.

    gather        rank r has part r, (T / n, D)             all get the stream, (T, D)
    scatter_sum   every rank has a summand of all, (T, D)   rank r gets part r of the sum, (T / n, D)

Each is the other's backward. Both receive (n - 1) / n of the stream. Between start and finish the transfer
runs beside whatever is computed there, and in the backward beside the gradients of just that:

    forward    start, products, finish            backward    finish (starts), their gradients, start (waits)

Sums are made here and not by the network: an exchange in the tensor's own dtype (the bytes of a
reduce-scatter), then a sum in order of rank, in float32 or float64, rounded once. So bfloat16 partial
sums lose nothing to the number of ranks, and the result does not depend on the transport.

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

# torch renames it; the old name serves before 2.13.
_ALL_GATHER = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


def launch_gather(x_TD: Tensor, group: AxisGroup, into_TD: Tensor | None = None) -> Transfer:
    """Part r from every rank r, laid end to end in order of rank, in `into_TD` if given. No gradients."""
    assert group.group is not None
    whole_TD = into_TD
    if whole_TD is None:
        whole_TD = x_TD.new_empty(group.size * x_TD.shape[0], *x_TD.shape[1:])
    work = _ALL_GATHER(whole_TD, x_TD.contiguous(), group=group.group, async_op=True)
    return Transfer([work], whole_TD)


def launch_exchange(x_TD: Tensor, group: AxisGroup) -> Transfer:
    """Part r of this rank's summand goes to rank r; `add_up` makes the sum of what arrives. No gradients."""
    assert group.group is not None
    assert x_TD.shape[0] % group.size == 0
    received_TD = x_TD.new_empty(x_TD.shape)
    work = dist.all_to_all_single(received_TD, x_TD.contiguous(), group=group.group, async_op=True)
    return Transfer([work], received_TD)


def add_up(received_TD: Tensor, num_summands: int) -> Tensor:
    """Sum of the summands that lie end to end, in order, rounded once."""
    wide = statistics_dtype(received_TD.dtype)
    summands = received_TD.view(num_summands, -1, *received_TD.shape[1:])
    return summands.sum(0, dtype=wide).to(received_TD.dtype)


def sum_over_replicas(x: Tensor, group: AxisGroup, replicas: int) -> Tensor:
    """Sum of `x` over the `replicas` neighbouring ranks this one belongs to, equal on all of them.

    One exchange in the dtype of `x`, on the group of the whole axis: no group of their own, and up to four
    replicas of bfloat16 receive no more than they would by an all-reduce in float32.
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
    """One direction of a collective: how it is started, and what is made of what arrived."""

    launch: Callable[[Tensor, AxisGroup], Transfer]
    unpack: Callable[[Tensor, int], Tensor]


_GATHER = _Way(launch_gather, lambda received_TD, _: received_TD)
_SCATTER_SUM = _Way(launch_exchange, add_up)


class StartedCollective:
    """A differentiable collective between its start and `finish`, which gives the result, once.

    The graph holds this object until the backward, so it lets go of every buffer as soon as it can.
    """

    def __init__(self, x_TD: Tensor, group: AxisGroup, forth: _Way, back: _Way) -> None:
        self._group, self._unpack, self._back = group, forth.unpack, back
        self._transfer: Transfer | None = None
        self._received_TD: Tensor | None
        self._received_TD = _Start.apply(x_TD, self, forth.launch)  # type: ignore[no-untyped-call]

    def finish(self) -> Tensor:
        """Wait for the result; it is differentiable with respect to what was sent."""
        received_TD, self._received_TD = self._received_TD, None
        result_TD: Tensor = _Finish.apply(received_TD, self)  # type: ignore[no-untyped-call]
        return result_TD

    def launch(self, launch: Callable[[Tensor, AxisGroup], Transfer], x_TD: Tensor) -> Tensor:
        """Start one direction; returns the buffer that fills in the background."""
        self._transfer = launch(x_TD, self._group)
        return self._transfer.received

    def launch_back(self, d_TD: Tensor) -> Tensor:
        """Start the gradient's way back."""
        return self.launch(self._back.launch, d_TD)

    def result(self) -> Tensor:
        """The result of the way forth."""
        return self._unpack(self._arrived(), self._group.size)

    def gradient(self) -> Tensor:
        """The gradient that came back."""
        return self._back.unpack(self._arrived(), self._group.size)

    def _arrived(self) -> Tensor:
        assert self._transfer is not None
        transfer, self._transfer = self._transfer, None
        return transfer.wait()


class _Start(torch.autograd.Function):
    """Its output is the buffer that is being filled; only `_Finish` reads it."""

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
    """Its gradient is the buffer that is being filled; only `_Start` reads it."""

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
    """(T / n, D) to (T, D): part r from every rank r, laid end to end, in `into_TD` if given."""
    forth = replace(_GATHER, launch=partial(launch_gather, into_TD=into_TD))
    return StartedCollective(x_TD, group, forth, _SCATTER_SUM)


def start_scatter_sum(x_TD: Tensor, group: AxisGroup) -> StartedCollective:
    """(T, D) to (T / n, D): everybody's summands of this rank's part, added up."""
    return StartedCollective(x_TD, group, _SCATTER_SUM, _GATHER)
