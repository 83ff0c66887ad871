"""A learned vector as a module of its own: the sinks of a layer, the constant of a static gate."""

import torch
from torch import Tensor, nn


class LearnedVector(nn.Module):
    """Numbers that the model learns, a parameter `weight` (width,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self) -> Tensor:
        """Returns a copy: with sharded parameters (ZeRO-3) the weight is gathered only during this call."""
        return self.weight.clone()
