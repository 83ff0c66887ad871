"""Normalisation with a learned weight, or none, and no bias.

Statistics are taken in float32 (float64 input stays float64) and the result is cast back, so a
bfloat16 model normalises as precisely as a float32 one.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over many elements: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class LayerNorm(nn.Module):
    """Subtract the mean, divide by sqrt(variance + eps), multiply by a weight if it is learned. Shape is kept.

    Source: arXiv 1607.06450 without the bias, as in Cohere2.
    """

    def __init__(self, size: int, eps: float, *, learned: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if learned else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        wide = statistics_dtype(x.dtype)
        weight = None if self.weight is None else self.weight.to(wide)
        return F.layer_norm(x.to(wide), x.shape[-1:], weight, None, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Divide by sqrt(mean square + eps), multiply by a weight if it is learned. Shape is kept.

    Source: arXiv 1910.07467, as in Llama.
    """

    def __init__(self, size: int, eps: float, *, learned: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if learned else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        wide = statistics_dtype(x.dtype)
        weight = None if self.weight is None else self.weight.to(wide)
        return F.rms_norm(x.to(wide), x.shape[-1:], weight, self.eps).to(x.dtype)


class RMSNormPlusOne(nn.Module):
    """RMSNorm that multiplies by 1 + weight: weight decay pulls the factor towards 1. Shape is kept.

    Source: Gemma's released code.
    """

    def __init__(self, size: int, eps: float, *, learned: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size)) if learned else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        wide = statistics_dtype(x.dtype)
        weight = None if self.weight is None else 1.0 + self.weight.to(wide)
        return F.rms_norm(x.to(wide), x.shape[-1:], weight, self.eps).to(x.dtype)


class HeadsNorm(nn.Module):
    """Normalises every head by itself and multiplies by a weight of its own, (heads, K). Shape (T, heads, K) is kept.

    Source: the released code of Command R+, with a LayerNorm.
    """

    def __init__(self, kind: str, num_heads: int, head_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_heads, head_dim))
        self.eps = eps
        self._subtracts_mean = kind == "layernorm"
        self._added = 1.0 if kind == "rmsnorm_plus_one" else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        wide = statistics_dtype(x.dtype)
        weight, width = self.weight.to(wide), x.shape[-1:]
        if self._subtracts_mean:
            normed = F.layer_norm(x.to(wide), width, None, None, self.eps)
        else:
            normed = F.rms_norm(x.to(wide), width, None, self.eps)
        return (normed * (weight + self._added if self._added else weight)).to(x.dtype)


# Keys: the values of `ModelConfig.norm`.
NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm, "rmsnorm_plus_one": RMSNormPlusOne}


def build_norm(kind: str, size: int, eps: float, *, learned: bool = True) -> nn.Module:
    """The norm named in the configuration (`ModelConfig.norm`) over `size` elements, with a learned weight or none."""
    return NORMS[kind](size, eps, learned=learned)
