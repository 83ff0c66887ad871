"""The knobs of one kind of rotary layer, and which method each belongs to."""

import math
from dataclasses import dataclass, fields
from difflib import get_close_matches

SCALINGS = ("none", "linear", "ntk", "yarn", "llama3")
# Which fields a method reads, besides `base`.
_READ = {
    "none": frozenset[str](),
    "linear": frozenset({"factor"}),
    "ntk": frozenset({"factor"}),
    "yarn": frozenset(
        {"factor", "original_length", "beta_fast", "beta_slow", "truncate", "attention_factor"}
    ),
    "llama3": frozenset({"factor", "original_length", "low_frequency", "high_frequency"}),
}

# Far beyond any model, and far below what a power of a float cannot hold.
MOST_FACTOR = 1e6


@dataclass
class RopeConfig:
    """How one kind of layer (windowed or full) rotates. Mutable only because Hydra needs it."""

    # Base of these layers whatever the schedule says; 0: the schedule's.
    base: float = 0.0
    # none, linear (position interpolation), ntk, yarn or llama3.
    scaling: str = "none"
    # How many times the trained length; of every scaling.
    factor: float = 1.0
    # yarn, llama3: the length before scaling.
    original_length: int = 0
    # yarn: turns over original_length from which a pair is kept, and up to which it is interpolated.
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    # yarn: the limits of the ramp are rounded outwards to whole pairs.
    truncate: bool = True
    # yarn: cosines and sines are multiplied by this; 0: by 0.1 ln(factor) + 1.
    attention_factor: float = 0.0
    # llama3: turns over original_length up to which a pair is divided, and from which it is kept.
    low_frequency: float = 1.0
    high_frequency: float = 4.0

    def problems(self, key: str, head_dim: int) -> list[str]:
        """Every rule this breaks, one line each; `key` is where it stands, head_dim the layers' own."""
        if self.scaling not in SCALINGS:
            nearest = get_close_matches(self.scaling, SCALINGS, n=1, cutoff=0.0)[0]
            return [
                f"{key}.scaling={self.scaling}: must be one of {', '.join(SCALINGS)}; did you mean {nearest}?"
            ]
        found = []
        if self.base and not 1.0 < self.base < float("inf"):
            found.append(f"{key}.base={self.base}: must be above 1; give 0 for the schedule's")
        read = _READ[self.scaling]
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
        if not 0.0 <= self.attention_factor < float("inf"):
            found.append(f"{key}.attention_factor={self.attention_factor}: must be 0 or more")
        return found

    def _factor_problems(self, key: str, head_dim: int) -> list[str]:
        found = []
        own_factor = self.scaling == "yarn" and self.attention_factor > 0.0
        if self.factor == 1.0 and not own_factor:
            found.append(
                f"{key}.factor=1: {self.scaling} scales nothing; give how many times the trained length, or "
                f"{key}.scaling=none"
            )
        elif not 1.0 <= self.factor <= MOST_FACTOR:
            found.append(f"{key}.factor={self.factor}: must be above 1 and at most {MOST_FACTOR:g}")
        if self.scaling == "ntk" and head_dim <= 2:
            found.append(
                f"{key}.scaling=ntk: needs model.head_dim above 2, it is {head_dim}: one pair turns by a radian a "
                "token whatever the base is; use linear"
            )
        return found

    def _limit_problems(self, key: str) -> list[str]:
        found = []
        if not 0.0 < self.beta_slow < self.beta_fast < float("inf"):
            found.append(
                f"{key}.beta_slow={self.beta_slow}: must be positive and below beta_fast={self.beta_fast}"
            )
        if not 0.0 < self.low_frequency < self.high_frequency < float("inf"):
            found.append(
                f"{key}.low_frequency={self.low_frequency}: must be positive and below "
                f"high_frequency={self.high_frequency}"
            )
        return found

    def _length_problems(self, key: str) -> list[str]:
        """`original_length` must reach as far as the slowest turns that the method counts in it.

        The fastest pair makes original_length / 2 pi turns. With fewer than the lower limit every pair would be
        beyond the ramp, and YaRN's ramp would turn round.
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
        """The base of these layers where the schedule's is `scheduled`."""
        return self.base or scheduled


# Rotation as it was published.
UNSCALED = RopeConfig()
