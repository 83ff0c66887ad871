"""Scalable softmax (SSMax): scores grow with the logarithm of the number of visible keys.

    softmax(s ln(n) scores),  n = keys that the token sees, itself included;  s = a learned number per head

The largest weight of a softmax over n keys falls as n grows, and this stops it. A window or a chunk bounds n, so that
the factor stays the same from there on. The parameter is `attention.position_scale.weight` (H,), see `query_scale.py`.
Source: arXiv 2501.19399.

Shape letters: T tokens, H query heads.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from model.position.scales.bounds import Positive
from model.position.scales.scale import PositionScale, TokensInPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SsmaxScale(PositionScale):
    """Scalable softmax."""

    learned: ClassVar[bool] = True
    reads_positions: ClassVar[bool] = False

    # Initial weight s of every head. With 0.168 the mean of s ln(n) over n = 1 to 1024 is 1.
    initial: Positive = 0.168
    scale: Literal["ssmax"] = "ssmax"

    @property
    def initial_weight(self) -> float:
        """See `PositionScale.initial_weight`."""
        return self.initial

    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """ln(n) of every token, float64 (T,), without s."""
        return tokens.visible_T.double().log()
