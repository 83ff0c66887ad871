"""What positions do to queries and keys: rotation of both, then a factor of the queries.

    q  ->  rotation(q) * factor        k  ->  rotation(k)

A factor commutes with rotation. It is one number per token, or with a learned scale one per token and head:
s_H * factors_T (`LearnedScale`). Factors are float32 (float64 for a float64 model); queries keep their dtype.

Shape letters: T tokens, H query heads, K head dimension.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.position.fourier_table import FourierRotation, LayerFourier
from model.position.rotation import Rotation, rotate


@dataclass(frozen=True, eq=False)
class Positioning:
    """What all layers of a kind share about positions in one forward.

    rotation: of the tokens held here; None: the layers do not rotate. query_factors_T: see `PositionScale.factors`,
    float32 or float64 (T,); None: queries are not scaled.
    """

    rotation: Rotation | FourierRotation | LayerFourier | None = None
    query_factors_T: Tensor | None = None


def turn(
    q_THK: Tensor, k_TGK: Tensor, rotation: Rotation | FourierRotation | LayerFourier | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys, rotated; unchanged without a rotation. dtypes and shapes are kept."""
    assert not isinstance(rotation, FourierRotation), "the coefficients are those of a layer"
    if isinstance(rotation, LayerFourier):
        turned: tuple[Tensor, Tensor] = rotation.turn(q_THK, k_TGK)
        return turned
    return rotate(q_THK, rotation), rotate(k_TGK, rotation)


def scale_queries(q_THK: Tensor, factors_T: Tensor | None) -> Tensor:
    """Queries times the factors of their tokens; unchanged if None. Only the factors are kept for the backward."""
    if factors_T is None:
        return q_THK
    return (q_THK * factors_T[:, None, None]).to(q_THK.dtype)


class LearnedScale(nn.Module):
    """The learned part of a scale of one layer, a parameter `weight` (H,)."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads))

    def forward(self, q_THK: Tensor, factors_T: Tensor | None) -> Tensor:
        """Queries times weight and the factors of their tokens; keeps the queries for the backward."""
        assert factors_T is not None, "a learned scale needs the factors of its kind"
        # A copy: with sharded parameters (ZeRO-3) the weight is gathered only during this call.
        weight_H = self.weight.to(factors_T.dtype, copy=True)
        if torch.compiler.is_compiling():
            return (q_THK * (factors_T[:, None] * weight_H)[..., None]).to(q_THK.dtype)
        scaled_THK: Tensor = _Scaled.apply(q_THK, weight_H, factors_T)  # type: ignore[no-untyped-call]
        return scaled_THK


class _Scaled(torch.autograd.Function):
    """Keeps the queries in their own dtype; autograd would keep a copy in that of the factors."""

    @staticmethod
    def forward(ctx: Any, q_THK: Tensor, weight_H: Tensor, factors_T: Tensor) -> Tensor:
        ctx.save_for_backward(q_THK, weight_H, factors_T)
        return (q_THK * (factors_T[:, None] * weight_H)[..., None]).to(q_THK.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_THK: Tensor) -> tuple[Tensor, Tensor | None, None]:
        q_THK, weight_H, factors_T = ctx.saved_tensors
        wide_THK = d_THK * factors_T[:, None, None]
        d_weight_H = None
        if ctx.needs_input_grad[1]:
            d_weight_H = torch.einsum("thk,thk->h", wide_THK, q_THK.to(wide_THK.dtype))
        return (wide_THK * weight_H[:, None]).to(q_THK.dtype), d_weight_H, None
