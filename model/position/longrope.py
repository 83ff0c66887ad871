"""LongRoPE: every pair's frequency is divided by a factor of its own, which a search has found.

There are two lists of factors: the short one up to the trained length, the long one above it. The first tokens of a
document may keep unscaled frequencies. Cosines and sines are multiplied by sqrt(1 + ln(factor) / ln(original_length)).
The length is that of the stage in training and the one asked for at evaluation.

Sources: arXiv 2402.13753; the two lists and the attention factor: transformers (rope_type longrope, Phi-3). Shape
letters: P pairs.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy
from annotated_types import Ge

from model.position.settings import Factor, Frequencies, NotNegative, RopeInput, ScaledRope
from model.position.turns import missing_length


@dataclass
class LongRope(ScaledRope):
    """LongRoPE with given factors."""

    reads_length: ClassVar[bool] = True

    scaling: Literal["longrope"] = "longrope"
    # Length in tokens before scaling.
    original_length: Annotated[int, Ge(0)] = 0
    # One factor for each pair; it divides the pair's frequency where the sequence length is at most original_length.
    short_factors: list[Factor] = field(default_factory=list)
    # One factor for each pair; it divides the pair's frequency where the sequence length is above original_length.
    long_factors: list[Factor] = field(default_factory=list)
    # Number of tokens at the start of a document whose frequencies are not divided.
    unscaled_tokens: Annotated[int, Ge(0)] = 0
    # Factor of cosines and sines; 0: that of the method.
    attention_factor: NotNegative = 0.0

    def scaled(self, given: RopeInput) -> Frequencies:
        """The frequencies of this length, and those of the first tokens."""
        long = given.length > self.original_length
        factors_P = numpy.array(self.long_factors if long else self.short_factors)
        unscaled_P = given.unscaled()
        attention = self.attention_factor or longrope_attention_factor(
            self.factor, self.original_length
        )
        first_P = unscaled_P if self.unscaled_tokens else None
        return Frequencies(unscaled_P / factors_P, attention, self.unscaled_tokens, first_P)

    def own_problems(self, key: str, given: RopeInput) -> list[str]:
        """Returns the broken rules of the method's own fields."""
        found = []
        if self.original_length < 2:
            found += missing_length(key, self.original_length)
        for name in ("short_factors", "long_factors"):
            count = len(getattr(self, name))
            if count != given.pairs:
                found.append(
                    f"{key}.{name}: needs a factor for each of the {given.pairs} pairs that rotate, it has {count}; "
                    "give the factors of a model with this head and rotary_share"
                )
        ones = {1.0} >= {*self.short_factors, *self.long_factors}
        if not found and ones:
            found += self.factor_problems(key, acts_at_1=self.attention_factor > 0.0)
        return found


def longrope_attention_factor(factor: float, original_length: int) -> float:
    """The factor of cosines and sines: sqrt(1 + ln(factor) / ln(original_length)), 1 at factor 1."""
    return math.sqrt(1.0 + math.log(factor) / math.log(original_length))
