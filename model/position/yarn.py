"""YaRN: fast pairs are kept, slow ones interpolated, with a linear ramp between.

    pair index   0 ........ low ........ high ........ P - 1
    weight of    1 ........ 1 \\
    the kept                     \\____ 0 ............ 0         kept * theta + (1 - kept) * theta / factor

`low` and `high` are the pairs that turn `fast` and `slow` times over the original length. In the reference code the
ramp is linear in the pair's INDEX; the paper's formula is linear in the number of turns and yields other frequencies.

Source: arXiv 2309.00071 and its reference code. Shape letters: P pairs.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy
from annotated_types import Ge

from model.position.settings import (
    Frequencies,
    NotNegative,
    Positive,
    RopeInput,
    ScaledRope,
    Values,
    below_problems,
)
from model.position.turns import blended_by_turns, length_problems

# Width of the ramp where `low` equals `high`.
_LEAST_WIDTH = 0.001


@dataclass
class YarnRope(ScaledRope):
    """YaRN."""

    scaling: Literal["yarn"] = "yarn"
    # Length in tokens before scaling.
    original_length: Annotated[int, Ge(0)] = 0
    # A pair with at least this many turns over original_length is not scaled.
    beta_fast: Positive = 32.0
    # A pair with at most this many turns over original_length is interpolated.
    beta_slow: Positive = 1.0
    # Ramp between beta_fast and beta_slow. reference: linear in the pair's index, as in the released code and
    # transformers. paper: linear in the number of turns.
    ramp: Literal["reference", "paper"] = "reference"
    # Whether the ends of the reference ramp are rounded outwards to whole pairs.
    truncate: bool = True
    # Factor of cosines and sines; 0: that of the method: 0.1 ln(factor) + 1 for yarn, sqrt(1 + ln(factor) /
    # ln(original_length)) for longrope.
    attention_factor: NotNegative = 0.0
    # DeepSeek's scale of the attention factor: cosines and sines are multiplied by (0.1 mscale ln(factor) + 1) /
    # (0.1 mscale_all_dim ln(factor) + 1); 0: not used.
    mscale: NotNegative = 0.0
    # DeepSeek's second factor, see mscale; 0: not used.
    mscale_all_dim: NotNegative = 0.0

    def scaled(self, given: RopeInput) -> Frequencies:
        """The scaled frequencies, and the factor of cosines and sines."""
        if self.ramp == "paper":
            scaled_P = blended_by_turns(
                given.unscaled(),
                self.factor,
                original_length=self.original_length,
                low=self.beta_slow,
                high=self.beta_fast,
            )
        else:
            scaled_P = yarn(
                given,
                self.factor,
                original_length=self.original_length,
                fast=self.beta_fast,
                slow=self.beta_slow,
                truncate=self.truncate,
            )
        return Frequencies(scaled_P, self.factor_of_turns)

    @property
    def factor_of_turns(self) -> float:
        """The factor of cosines and sines."""
        if self.mscale:
            above, below = (
                yarn_attention_factor(self.factor, scale)
                for scale in (self.mscale, self.mscale_all_dim)
            )
            return above / below
        return self.attention_factor or yarn_attention_factor(self.factor)

    def own_problems(self, key: str, given: RopeInput) -> list[str]:  # noqa: ARG002
        """Returns the broken rules of the method's own fields."""
        found = below_problems(self, key, "beta_slow", "beta_fast")
        found = found or length_problems(
            self.scaling, key, self.original_length, ("beta_slow", self.beta_slow)
        )
        if self.ramp == "paper" and not self.truncate:
            found.append(
                f"{key}.truncate=false: has no effect with {key}.ramp=paper, which has no ends in pairs; drop it"
            )
        if (self.mscale > 0.0) != (self.mscale_all_dim > 0.0):
            found.append(
                f"{key}.mscale={self.mscale}: must be given together with mscale_all_dim={self.mscale_all_dim}; "
                "give both, or neither"
            )
        elif self.mscale and self.attention_factor:
            found.append(
                f"{key}.attention_factor={self.attention_factor}: stands against mscale and mscale_all_dim; give one "
                "or the other"
            )
        return self.factor_problems(key, acts_at_1=self.attention_factor > 0.0) + found


def yarn(
    given: RopeInput,
    factor: float,
    *,
    original_length: int,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> Values:
    """The scaled frequencies with the ramp of the reference code, (P,).

    fast: pairs with at least this many turns over `original_length` are kept. slow: pairs with at most this many are
    interpolated. truncate: round the ends of the ramp outwards to whole pairs.
    """
    low = _pair_of_turns(fast, given, original_length)
    high = _pair_of_turns(slow, given, original_length)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, given.width - 1)
    width = high - low or _LEAST_WIDTH
    index_P = numpy.arange(given.pairs, dtype=numpy.float64)
    kept_P = 1.0 - numpy.clip((index_P - low) / width, 0.0, 1.0)
    radians_P = given.unscaled()
    return kept_P * radians_P + (1.0 - kept_P) * radians_P / factor


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor of cosines and sines, 0.1 scale ln(factor) + 1; scores are multiplied by its square."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0


def _pair_of_turns(turns: float, given: RopeInput, length: int) -> float:
    """Index (fractional) of the pair that makes `turns` turns over `length` tokens."""
    return given.width / 2 * math.log(length / (2.0 * math.pi * turns)) / math.log(given.base)
