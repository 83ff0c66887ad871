"""DroPE's scale, one number for all tokens, for contexts longer than the trained one:

    1 + coefficient ln(s),  s = sequence length in force / trained length, and 1 up to the trained length

DroPE has it after the rotation is dropped. Source: arXiv 2512.12167.

Shape letters: T tokens.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from model.position.scales.bounds import Positions, Positive
from model.position.scales.scale import PositionScale, TokensInPlace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class DropeScale(PositionScale):
    """DroPE's scale."""

    reads_positions: ClassVar[bool] = False
    reads_length: ClassVar[bool] = True

    # Longest sequence length in tokens that the model was trained at without rotation.
    trained_length: Positions
    # Factor of the logarithm; 0.412 after training from scratch, 0.103 for SmolLM.
    coefficient: Positive = 0.412
    scale: Literal["drope"] = "drope"

    def factor(self, length: int) -> float:
        """The factor at a sequence length in tokens."""
        return 1.0 + self.coefficient * math.log(max(1.0, length / self.trained_length))

    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """See `PositionScale.factors`."""
        return tokens.positions_T.double().mul(0.0).add(self.factor(tokens.length))

    def is_one_within(self, length: int) -> bool:
        """See `PositionScale.is_one_within`."""
        return length <= self.trained_length
