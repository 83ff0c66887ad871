"""The rotary settings of one kind of layer, and the scaling methods that read each setting."""

import math
from dataclasses import dataclass, fields
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

# The fields that each method reads, besides `base`.
READ = {
    "none": frozenset[str](),
    "linear": frozenset({"factor"}),
    "ntk": frozenset({"factor"}),
    "yarn": frozenset(
        {"factor", "original_length", "beta_fast", "beta_slow", "truncate", "attention_factor"}
    ),
    "llama3": frozenset({"factor", "original_length", "low_frequency", "high_frequency"}),
}


NotNegative = Annotated[float, Ge(0), Lt(inf)]
# The upper limit is far beyond any model; powers of the factor do not overflow.
Factor = Annotated[float, Ge(1), Le(1e6)]


@dataclass
class RopeConfig:
    """How one kind of layer rotates. Mutable only because Hydra needs it."""

    # RoPE base of these layers in all stages; 0: the schedule's.
    base: NotNegative = 0.0
    # Method that scales frequencies to a longer context; linear is position interpolation.
    scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = "none"
    # Scaling factor: context length divided by the trained length; every scaling.
    factor: Factor = 1.0
    # Length in tokens before scaling; yarn and llama3.
    original_length: Annotated[int, Ge(0)] = 0
    # A pair with at least this many turns over original_length is not scaled; yarn.
    beta_fast: Annotated[float, Gt(0), Lt(inf)] = 32.0
    # A pair with at most this many turns over original_length is interpolated; yarn.
    beta_slow: Annotated[float, Gt(0), Lt(inf)] = 1.0
    # Whether the ends of the ramp are rounded outwards to whole pairs; yarn.
    truncate: bool = True
    # Factor of cosines and sines; 0: 0.1 ln(factor) + 1; yarn.
    attention_factor: NotNegative = 0.0
    # A pair with at most this many turns over original_length is divided by the factor; llama3.
    low_frequency: Annotated[float, Gt(0), Lt(inf)] = 1.0
    # A pair with at least this many turns over original_length is not scaled; llama3.
    high_frequency: Annotated[float, Gt(0), Lt(inf)] = 4.0

    def problems(self, key: str, head_dim: int) -> list[str]:
        """Returns every broken rule between these fields, one line each.

        key: prefix of the fields in messages. head_dim: that of the layers.
        """
        found = []
        if 0.0 < self.base <= 1.0:
            found.append(f"{key}.base={self.base}: must be above 1; give 0 for the schedule's")
        read = READ[self.scaling]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in read | {"base", "scaling"} and value != field.default:
                found.append(
                    f"{key}.{field.name}={value}: has no effect with {key}.scaling={self.scaling}; drop it"
                )
        if "factor" in read:
            found += self._factor_problems(key, head_dim)
        found += self._limit_problems(key) or (
            self._length_problems(key) if "original_length" in read else []
        )
        return found

    def _factor_problems(self, key: str, head_dim: int) -> list[str]:
        found = []
        own_factor = self.scaling == "yarn" and self.attention_factor > 0.0
        if self.factor == 1.0 and not own_factor:
            found.append(
                f"{key}.factor=1: {self.scaling} scales nothing; give how many times the trained length, or "
                f"{key}.scaling=none"
            )
        if self.scaling == "ntk" and head_dim <= 2:
            found.append(
                f"{key}.scaling=ntk: needs model.head_dim above 2, it is {head_dim}: one pair turns by a radian a "
                "token whatever the base is; use linear"
            )
        return found

    def _limit_problems(self, key: str) -> list[str]:
        found = []
        for low, high in (("beta_slow", "beta_fast"), ("low_frequency", "high_frequency")):
            if getattr(self, low) >= getattr(self, high):
                found.append(
                    f"{key}.{low}={getattr(self, low)}: must be below {high}={getattr(self, high)}"
                )
        return found

    def _length_problems(self, key: str) -> list[str]:
        """Checks that the fastest pair makes at least as many turns as the lower limit of the method.

        The fastest pair makes original_length / 2 pi turns. With fewer turns than the lower limit every pair would be
        past the ramp, and YaRN's ramp would be reversed.
        """
        slow = self.beta_slow if self.scaling == "yarn" else self.low_frequency
        least = math.ceil(2.0 * math.pi * slow)
        if self.original_length < 1:
            return [
                f"{key}.original_length={self.original_length}: must be the length before scaling, in tokens"
            ]
        if self.original_length < least:
            limit = "beta_slow" if self.scaling == "yarn" else "low_frequency"
            return [
                f"{key}.original_length={self.original_length}: no pair makes {limit}={slow:g} turns over so few "
                f"tokens, {self.scaling} has nothing to keep; give the length before scaling, at least {least}"
            ]
        return []

    def base_of(self, scheduled: float) -> float:
        """The base of these layers; `scheduled` is the schedule's."""
        return self.base or scheduled


# RoPE without scaling, as published.
UNSCALED = RopeConfig()


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor of cosines and sines, 0.1 scale ln(factor) + 1; scores are multiplied by its square."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0
