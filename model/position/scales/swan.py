"""SWAN's scale, a logarithm of the position:

    log_a(a + position) = ln(a + position) / ln(a)

SWAN-GPT has it on layers without rotation, at inference beyond the trained length. Source: arXiv 2504.08719.

Shape letters: T tokens.
"""

import math
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt, Lt

from model.position.scales.scale import PositionScale, TokensInPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SwanScale(PositionScale):
    """SWAN's scale."""

    # Base a of the logarithm; the factor is 2 at position a (a - 1).
    log_base: Annotated[float, Gt(1), Lt(inf)] = 362.0
    scale: Literal["swan"] = "swan"

    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """See `PositionScale.factors`."""
        return (tokens.positions_T.double() + self.log_base).log() / math.log(self.log_base)
