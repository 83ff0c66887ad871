"""Dynamic NTK scaling: the base grows with the sequence length once that is above the trained length.

    base * (factor * length / original_length - (factor - 1)) ** (d / (d - 2))

d is the width of the rotation. Factor 1 gives the paper's form, (length / original_length) ** (d / (d - 2)). The length
is that of the stage in training and the one asked for at evaluation, never a document's: one model, one base.

Sources: transformers (rope_type dynamic), and arXiv 2309.00071, section 3.3.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from model.position.ntk import single_pair_problems
from model.position.settings import Frequencies, RopeInput, ScaledRope
from model.position.turns import missing_length


@dataclass
class DynamicNtkRope(ScaledRope):
    """Dynamic NTK scaling."""

    reads_length: ClassVar[bool] = True

    scaling: Literal["dynamic_ntk"] = "dynamic_ntk"
    # Length in tokens before scaling.
    original_length: Annotated[int, Ge(0)] = 0

    def scaled(self, given: RopeInput) -> Frequencies:
        """The frequencies of RoPE at the base of this length."""
        base = dynamic_ntk_base(given, self.factor, self.original_length)
        return Frequencies(given.with_base(base))

    def own_problems(self, key: str, given: RopeInput) -> list[str]:
        """Returns the broken rules of the method's own fields."""
        found = single_pair_problems(self.scaling, key, given)
        return found + (
            missing_length(key, self.original_length) if self.original_length < 1 else []
        )


def dynamic_ntk_base(given: RopeInput, factor: float, original_length: int) -> float:
    """The base at `given.length` tokens; that of `given` up to `original_length`."""
    length = max(given.length, original_length)
    grown = factor * length / original_length - (factor - 1.0)
    return float(given.base * grown ** (given.width / (given.width - 2)))
