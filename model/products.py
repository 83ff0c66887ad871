"""Products of half-precision matrices, computed in float32 where that is faster.

On a CPU torch has fast bfloat16 products only with AVX-512 or AMX. Without them its fallback is ten times slower
than float32 (measured on AVX2: 6 against 55 GFLOP/s per core). There the factors are cast to float32 first and
the product is rounded once, which is also more precise.

Shape letters: M rows, D width in, F width out.
"""

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_HALF = (torch.bfloat16, torch.float16)


def multiplies_half(capability: str) -> bool:
    """Whether a CPU with this capability (torch's name) has fast products of half-precision matrices.

    torch reports a CPU with AMX as AVX512. Unknown and older capabilities count as slow: the product in float32 is
    correct everywhere.
    """
    return capability.startswith("AVX512")


MULTIPLIES_HALF: Final = multiplies_half(torch.backends.cpu.get_cpu_capability())


def for_product(x: Tensor) -> Tensor:
    """Casts a factor to the dtype in which this machine multiplies fastest; differentiable."""
    if x.is_cpu and x.dtype in _HALF and not MULTIPLIES_HALF:
        return x.float()
    return x


class Linear(nn.Linear):
    """`nn.Linear` that uses `product`. The output has the input's dtype."""

    def __init__(self, size_in: int, size_out: int, *, bias: bool = False) -> None:
        super().__init__(size_in, size_out, bias=bias)

    def forward(self, x_MD: Tensor) -> Tensor:
        """x W^T + bias, (M, F)."""
        return product(x_MD, self.weight, self.bias)


def product(x_MD: Tensor, weight_FD: Tensor, bias_F: Tensor | None) -> Tensor:
    """x W^T + bias, (M, F), in the dtype of `x`."""
    if x_MD.is_cpu and x_MD.dtype in _HALF and not MULTIPLIES_HALF:
        y_MF: Tensor = _WidenedProduct.apply(x_MD, weight_FD)  # type: ignore[no-untyped-call]
        return y_MF if bias_F is None else y_MF + bias_F
    return F.linear(x_MD, weight_FD, bias_F)


class _WidenedProduct(torch.autograd.Function):
    """x W^T in float32. Saves its factors in half precision and casts them again in the backward."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, weight_FD: Tensor) -> Tensor:
        ctx.save_for_backward(x_MD, weight_FD)
        return (x_MD.float() @ weight_FD.float().t()).to(x_MD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_MF: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x_MD, weight_FD = ctx.saved_tensors
        wide_MF = dy_MF.float()
        dx_MD = dweight_FD = None
        if ctx.needs_input_grad[0]:
            dx_MD = (wide_MF @ weight_FD.float()).to(x_MD.dtype)
        if ctx.needs_input_grad[1]:
            dweight_FD = (wide_MF.t() @ x_MD.float()).to(weight_FD.dtype)
        return dx_MD, dweight_FD
