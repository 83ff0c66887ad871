"""Llama 3.1's scaling: long wavelengths are interpolated, short ones kept, those between blended.

    wavelength   .. original / high ........ original / low ..
    frequency      kept        blended         divided by factor

Source: the released code of Llama 3.1.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from model.position.settings import (
    Frequencies,
    Positive,
    RopeInput,
    ScaledRope,
    below_problems,
)
from model.position.turns import blended_by_turns, length_problems


@dataclass
class Llama3Rope(ScaledRope):
    """Llama 3.1's scaling."""

    scaling: Literal["llama3"] = "llama3"
    # Length in tokens before scaling.
    original_length: Annotated[int, Ge(0)] = 0
    # A pair with at most this many turns over original_length is divided by the factor.
    low_frequency: Positive = 1.0
    # A pair with at least this many turns over original_length is not scaled.
    high_frequency: Positive = 4.0

    def scaled(self, given: RopeInput) -> Frequencies:
        """The scaled frequencies."""
        scaled_P = blended_by_turns(
            given.unscaled(),
            self.factor,
            original_length=self.original_length,
            low=self.low_frequency,
            high=self.high_frequency,
        )
        return Frequencies(scaled_P)

    def own_problems(self, key: str, given: RopeInput) -> list[str]:  # noqa: ARG002
        """Returns the broken rules of the method's own fields."""
        found = below_problems(self, key, "low_frequency", "high_frequency")
        found = found or length_problems(
            self.scaling, key, self.original_length, ("low_frequency", self.low_frequency)
        )
        return self.factor_problems(key) + found
