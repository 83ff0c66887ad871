"""Modules that compute differently when their parameters are cut: summed biases, and norms over all heads.

Shape letters: T tokens, W width of the heads of this rank.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.norm import RMSNorm, RMSNormPlusOne, statistics_dtype
from model.products import product
from parallel.collectives import launch_gather
from parallel.mesh import AxisGroup


class SummandLinear(nn.Linear):
    """A linear layer whose outputs are summed over all tensor ranks: each adds 1 / n of the bias.

    Takes the parameters of `linear`; the bias is not cut.
    """

    def __init__(self, linear: nn.Linear, num_ranks: int) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = linear.weight.shape
        self.weight, self.bias = linear.weight, linear.bias
        self._num_ranks = num_ranks

    def forward(self, input: Tensor) -> Tensor:
        """Returns this rank's summand."""
        return product(input, self.weight, self.bias / self._num_ranks)


class AllHeadsNorm(nn.Module):
    """An RMSNorm over the queries (or keys) of all heads, of which this rank holds some.

    Takes the weight of `norm`, cut, if it has one. replicas: number of ranks that hold the same heads; each adds its
    fraction.
    """

    def __init__(self, norm: nn.Module, group: AxisGroup, replicas: int) -> None:
        super().__init__()
        assert isinstance(norm, RMSNorm | RMSNormPlusOne)
        self.weight, self.eps = norm.weight, norm.eps
        self._added = 1.0 if isinstance(norm, RMSNormPlusOne) else 0.0
        self._group, self._replicas = group, replicas

    def forward(self, x_TW: Tensor) -> Tensor:
        """Normalises by the mean square over the heads of all ranks. Collective."""
        wide_TW = x_TW.to(statistics_dtype(x_TW.dtype))
        width = x_TW.shape[-1] * self._group.size // self._replicas
        own_T = wide_TW.square().sum(dim=-1) / (self._replicas * width)
        mean_T: Tensor = _SumOverRanks.apply(own_T, self._group)  # type: ignore[no-untyped-call]
        normed_TW = wide_TW * (mean_T + self.eps).rsqrt()[:, None]
        if self.weight is not None:
            weight = self.weight.to(wide_TW.dtype)
            normed_TW = normed_TW * (weight + self._added if self._added else weight)
        return normed_TW.to(x_TW.dtype)


class _SumOverRanks(torch.autograd.Function):
    """The sum of (T,) numbers over the axis; the backward sums the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, own_T: Tensor, group: AxisGroup) -> Tensor:
        ctx.group = group
        return launch_gather(own_T, group).wait().view(group.size, -1).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_T: Tensor) -> tuple[Tensor, None]:
        group = ctx.group
        return launch_gather(d_T, group).wait().view(group.size, -1).sum(dim=0), None
