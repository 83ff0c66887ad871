"""The frequency of each pair of a rotary layer, without and with scaling.

Source: arXiv 2104.09864. Shape letters: P = head_dim / 2 pairs.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from model.position.config import RopeConfig, yarn_attention_factor
from model.position.linear import interpolate
from model.position.llama3 import llama3
from model.position.ntk import ntk_base
from model.position.yarn import yarn


def inverse_frequencies(base: float, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Radians per token of pair i: base ** (-2i / head_dim), float64 (P,)."""
    exponents_P = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    return torch.pow(float(base), -exponents_P)


def _linear(rope: RopeConfig, base: float, unscaled_P: Tensor) -> tuple[Tensor, float]:  # noqa: ARG001
    return interpolate(unscaled_P, rope.factor), 1.0


def _ntk(rope: RopeConfig, base: float, unscaled_P: Tensor) -> tuple[Tensor, float]:
    head_dim = 2 * len(unscaled_P)
    return inverse_frequencies(
        ntk_base(base, rope.factor, head_dim), head_dim, unscaled_P.device
    ), 1.0


def _yarn(rope: RopeConfig, base: float, unscaled_P: Tensor) -> tuple[Tensor, float]:
    scaled_P = yarn(
        unscaled_P,
        rope.factor,
        base=base,
        original_length=rope.original_length,
        fast=rope.beta_fast,
        slow=rope.beta_slow,
        truncate=rope.truncate,
    )
    return scaled_P, rope.attention_factor or yarn_attention_factor(rope.factor)


def _llama3(rope: RopeConfig, base: float, unscaled_P: Tensor) -> tuple[Tensor, float]:  # noqa: ARG001
    scaled_P = llama3(
        unscaled_P,
        rope.factor,
        original_length=rope.original_length,
        low=rope.low_frequency,
        high=rope.high_frequency,
    )
    return scaled_P, 1.0


# Keys: the values of RopeConfig.scaling. Each function takes settings, base and unscaled frequencies and returns
# the result of `frequencies`.
SCALINGS: Mapping[str, Callable[[RopeConfig, float, Tensor], tuple[Tensor, float]]] = (
    MappingProxyType(
        {
            "none": lambda _rope, _base, unscaled_P: (unscaled_P, 1.0),
            "linear": _linear,
            "ntk": _ntk,
            "yarn": _yarn,
            "llama3": _llama3,
        }
    )
)


def frequencies(
    rope: RopeConfig, scheduled_base: float, head_dim: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, float]:
    """Radians per token of every pair, float64 (P,), and the factor of cosines and sines."""
    base = rope.base_of(scheduled_base)
    return SCALINGS[rope.scaling](rope, base, inverse_frequencies(base, head_dim, device))
