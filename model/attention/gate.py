"""Output gates: attention's output times numbers between nothing and all, computed from the layer's input.

    o  ->  o * f(x W^T)        f: sigmoid or softplus

x is the input of the products that make queries, keys and values, normalised as it is. The product has one number
for each head, `attention.head_gate_proj.weight` (H, D), or one for each channel of every head,
`attention.gate_proj.weight` (H K, D). With W = 0 a sigmoid gives exactly half of the output.
Source: arXiv 2505.06708; softplus over heads is that of Laguna.

Shape letters: T tokens, H query heads, K head dimension, W numbers of the gate (H, or H K).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

# Keys: the values of `ModelConfig.gate`, without none.
GATES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"sigmoid": torch.sigmoid, "softplus": F.softplus}
)


def gated(o_TD: Tensor, product_TW: Tensor, gate: str) -> Tensor:
    """Attention's output (T, H K) times its gate. product_TW: x W^T. Shape and dtype are kept."""
    gate_TW = GATES[gate](product_TW)
    if gate_TW.shape == o_TD.shape:
        return o_TD * gate_TW
    o_THK = o_TD.view(*gate_TW.shape, -1)
    return (o_THK * gate_TW[..., None]).flatten(-2)
