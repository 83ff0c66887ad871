"""How fast each pair of a rotary layer turns, before any scaling and with it.

Source: arXiv 2104.09864. Shape letters: P = head_dim / 2 pairs.
"""

import torch
from torch import Tensor

from model.position.config import RopeConfig
from model.position.linear import interpolate
from model.position.llama3 import llama3
from model.position.ntk import ntk_base
from model.position.yarn import yarn, yarn_attention_factor


def inverse_frequencies(base: float, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Radians per token of every pair: base ** (-2i / head_dim), float64 (P,)."""
    exponents_P = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    return torch.pow(float(base), -exponents_P)


def frequencies(
    rope: RopeConfig, scheduled_base: float, head_dim: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, float]:
    """Radians per token of every pair, float64 (P,), and what cosines and sines are multiplied by."""
    base = rope.base_of(scheduled_base)
    if rope.scaling == "ntk":
        base = ntk_base(base, rope.factor, head_dim)
    unscaled_P = inverse_frequencies(base, head_dim, device)
    if rope.scaling == "linear":
        return interpolate(unscaled_P, rope.factor), 1.0
    if rope.scaling == "llama3":
        scaled_P = llama3(
            unscaled_P,
            rope.factor,
            original_length=rope.original_length,
            low=rope.low_frequency,
            high=rope.high_frequency,
        )
        return scaled_P, 1.0
    if rope.scaling == "yarn":
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
    return unscaled_P, 1.0
