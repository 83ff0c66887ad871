"""NTK-aware scaling: a larger base, so that the slowest pair turns `factor` times slower and the fastest is unchanged.

Sources: the original post of bloc97, and arXiv 2309.00071, section 3.1.
"""

from dataclasses import dataclass
from typing import Literal

from model.position.settings import Frequencies, RopeInput, ScaledRope


@dataclass
class NtkRope(ScaledRope):
    """NTK-aware scaling."""

    scaling: Literal["ntk"] = "ntk"

    def scaled(self, given: RopeInput) -> Frequencies:
        """The frequencies of RoPE at the larger base."""
        return Frequencies(given.with_base(ntk_base(given.base, self.factor, given.width)))

    def own_problems(self, key: str, given: RopeInput) -> list[str]:
        """Returns the broken rules of the method's own fields."""
        return self.factor_problems(key) + single_pair_problems(self.scaling, key, given)


def ntk_base(base: float, factor: float, width: int) -> float:
    """The base for `factor` times the length: base * factor ** (d / (d - 2)), d = width of the rotation, above 2."""
    return float(base * factor ** (width / (width - 2)))


def single_pair_problems(scaling: str, key: str, given: RopeInput) -> list[str]:
    """Returns one line if there is a single pair, on which the base has no effect."""
    if given.width > 2 and given.pairs > 1:
        return []
    return [
        f"{key}.scaling={scaling}: needs two pairs or more, there is one, which turns by a radian a token whatever the "
        "base is; use linear"
    ]
