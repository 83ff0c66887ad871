"""Position interpolation: the trained range of angles covers `factor` times as many tokens.

Source: arXiv 2306.15595. Shape letters: P pairs.
"""

from dataclasses import dataclass
from typing import Literal

from model.position.settings import Frequencies, RopeInput, ScaledRope, Values


@dataclass
class LinearRope(ScaledRope):
    """Position interpolation."""

    scaling: Literal["linear"] = "linear"

    def scaled(self, given: RopeInput) -> Frequencies:
        """All frequencies divided by the factor."""
        return Frequencies(interpolate(given.unscaled(), self.factor))

    def own_problems(self, key: str, given: RopeInput) -> list[str]:  # noqa: ARG002
        """Returns the broken rules of the method's own fields."""
        return self.factor_problems(key)


def interpolate(radians_P: Values, factor: float) -> Values:
    """All frequencies divided by `factor`, (P,)."""
    return radians_P / factor
