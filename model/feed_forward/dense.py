"""The gated feed-forward layer: down(gate(gate_proj(x)) * up), without biases or with.

    silu           gate(g) = g sigmoid(g)             up = up_proj(x)          SwiGLU
    gelu_tanh      gate(g) = gelu(g), by tanh         up = up_proj(x)          Gemma
    clamped_silu   gate(g) = g sigmoid(1.702 g)       up = up_proj(x) + 1      gpt-oss: g at most 7, up_proj(x) in -7..7

Source: arXiv 2002.05202; the released code of Gemma and gpt-oss.

Shape letters: T tokens, D width, F feed-forward width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.feed_forward.tiled import tiled_swiglu
from model.products import Linear

_CLAMP, _SHARPNESS = 7.0, 1.702


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate_TF) * up_TF


def geglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """gelu(gate) * up, gelu by its tanh approximation."""
    return F.gelu(gate_TF, approximate="tanh") * up_TF


def clamped_swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """gate sigmoid(1.702 gate) * (up + 1), both clamped."""
    gate_TF, up_TF = gate_TF.clamp(max=_CLAMP), up_TF.clamp(-_CLAMP, _CLAMP)
    return gate_TF * torch.sigmoid(_SHARPNESS * gate_TF) * (up_TF + 1.0)


GATES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"silu": swiglu, "gelu_tanh": geglu, "clamped_silu": clamped_swiglu}
)


class FeedForward(nn.Module):
    """Gated feed-forward: `hidden_size` to `intermediate_size` and back.

    activation: name of the gate. bias: whether all three projections have one.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        activation: str = "silu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)
        self._gate = GATES[activation]
        self._tiles_apply = activation == "silu" and not bias
        # Tokens per tile, forward and backward; 0: no tiles. Used for SwiGLU without biases only.
        self.tile_rows = 0

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        if 0 < self.tile_rows < len(x_TD) and self._tiles_apply:
            weights = (self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
            tiled_TD: Tensor = tiled_swiglu(x_TD, *weights, self.tile_rows)
            return tiled_TD
        output_TD: Tensor = self.down_proj(self._gate(self.gate_proj(x_TD), self.up_proj(x_TD)))
        return output_TD
