"""How fast each pair of a rotary layer turns, before any scaling.

Source: arXiv 2104.09864. Shape letters: P = head_dim / 2 pairs.
"""

import torch
from torch import Tensor


def inverse_frequencies(base: float, head_dim: int, device: torch.device | str = "cpu") -> Tensor:
    """Radians per token of every pair: base ** (-2i / head_dim), float64 (P,)."""
    exponents_P = torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim
    return torch.pow(float(base), -exponents_P)
