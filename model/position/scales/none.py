"""No scale: queries stay as they are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from model.position.scales.scale import PositionScale, TokensInPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class NoScale(PositionScale):
    """No scale."""

    # Method that scales the queries of a token by its position; none: no scale.
    scale: Literal["none"] = "none"

    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """1 for every token, float64 (T,)."""
        return tokens.positions_T.double().mul(0.0).add(1.0)
