"""The gated feed-forward layer (SwiGLU): down(silu(gate(x)) * up(x)), no biases.

Source: arXiv 2002.05202.

Shape letters: T tokens, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from model.products import Linear
from model.tiled_feed_forward import tiled_swiglu


class FeedForward(nn.Module):
    """SwiGLU of width `intermediate_size` between two maps of width `hidden_size`."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)
        # Tokens at a time, forward and backward; 0: all at once.
        self.tile_rows = 0

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        if 0 < self.tile_rows < len(x_TD):
            weights = (self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
            tiled_TD: Tensor = tiled_swiglu(x_TD, *weights, self.tile_rows)
            return tiled_TD
        output_TD: Tensor = self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))
        return output_TD
