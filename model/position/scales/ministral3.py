"""The scale of Ministral 3 and Mistral Large 3, which rises in steps of the length before YaRN:

    1 + beta ln(1 + floor(position / original_length))

These models have it on all layers, with YaRN. Llama 4's formula (`llama4.py`) looks alike; at the last position of a
block, position = n original_length - 1, it is one step ahead. Source: the released code of Ministral 3.

Shape letters: T tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from model.position.scales.bounds import Positions, Positive
from model.position.scales.scale import PositionScale, TokensInPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Ministral3Scale(PositionScale):
    """Ministral 3's scale."""

    # Factor of the logarithm.
    beta: Positive = 0.1
    # Tokens of a block, the length before YaRN: positions of one block have the same factor; the first is 1.
    original_length: Positions = 16384
    scale: Literal["ministral3"] = "ministral3"

    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """See `PositionScale.factors`."""
        blocks_T = tokens.positions_T // self.original_length
        return 1.0 + self.beta * blocks_T.double().log1p()

    def is_one_within(self, length: int) -> bool:
        """See `PositionScale.is_one_within`."""
        return length <= self.original_length
