r"""Static gates (ASR): attention's output times learned numbers that do not depend on the input.

    o  ->  o * g        g = sigmoid(relu(c R^T) E^T)

The constant c has one number for each head or for each channel of every head, C in all; all of them start at 0.1. The
module that maps it to the gate is that of squeeze-and-excitation without biases: C -> max(1, C // 16) -> C. It
trains with the model. As g is the same for every token, an export multiplies the columns of `o_proj` by it and the
constant and its module are gone.

The rows of R start positive: the input of the ReLU is the same for every token, so a row that started below zero
would never get a gradient.

Source: arXiv 2304.06345, there on the affine map of a batch norm. Shape letters: T tokens, H query heads, K head
dimension, C numbers of the gate (H, or H K), R reduced numbers.
"""

import torch
from torch import Tensor, nn

from model.attention.learned_vector import LearnedVector
from model.products import Linear


class StaticGate(nn.Module):
    """The gate of one layer: `constant.weight` (C,), `reduce.weight` (R, C), `expand.weight` (C, R)."""

    def __init__(self, width: int, reduced: int) -> None:
        super().__init__()
        self.constant = LearnedVector(width)
        self.reduce = Linear(width, reduced)
        self.expand = Linear(reduced, width)
        # Tensor ranks hold the module whole, and each multiplies its own heads: part `index` of `parts` equal ones.
        self.index, self.parts = 0, 1

    def forward(self) -> Tensor:
        """The gate of this rank's heads (C / parts,)."""
        reduced_1R = torch.relu(self.reduce(self.constant()[None]))
        gate_C = torch.sigmoid(self.expand(reduced_1R)[0])
        return gate_C.chunk(self.parts)[self.index]


def scaled(o_TD: Tensor, gate_C: Tensor) -> Tensor:
    """Attention's output (T, H K) times the gate of each head, or of each channel. Shape and dtype are kept."""
    o_TCK = o_TD.reshape(*o_TD.shape[:-1], len(gate_C), -1)
    return (o_TCK * gate_C[:, None]).flatten(-2)


def folded(o_proj_DC: Tensor, constant_C: Tensor, reduce_RC: Tensor, expand_CR: Tensor) -> Tensor:
    """The weight of `o_proj` (D, H K) whose product is that of the gated output; float64."""
    reduced_R = torch.relu(reduce_RC.double() @ constant_C.double())
    return scaled(o_proj_DC.double(), torch.sigmoid(expand_CR.double() @ reduced_R))
