"""Llama 4's scale, which rises in steps of `floor_scale` positions:

    1 + attn_scale ln(1 + floor((position + 1) / floor_scale))

Llama 4 has it on layers without rotation. Ministral 3's formula (`ministral3.py`) looks alike and differs at the end of
every block. Source: the released code of Llama 4 (`attn_temperature_tuning`).

Shape letters: T tokens.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from model.position.scales.bounds import Positions, Positive
from model.position.scales.scale import PositionScale, TokensInPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Llama4Scale(PositionScale):
    """Llama 4's scale."""

    # Factor of the logarithm.
    attn_scale: Positive = 0.1
    # Tokens of a block: positions of one block have the same factor; the first is 1.
    floor_scale: Positions = 8192
    scale: Literal["llama4"] = "llama4"

    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """See `PositionScale.factors`."""
        blocks_T = (tokens.positions_T + 1) // self.floor_scale
        return 1.0 + self.attn_scale * blocks_T.double().log1p()

    def is_one_within(self, length: int) -> bool:
        """See `PositionScale.is_one_within`."""
        return length < self.floor_scale
