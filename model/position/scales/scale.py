"""The base of all scales of queries by position, and what they read.

A scale multiplies the queries of a token, after rotation, by a factor of that token; scores before softmax grow by the
same factor. So it changes how sharply a token attends, by where it stands. Settings import no torch; `factors` gets
tensors and uses their methods.

Shape letters: T tokens.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from model.reach import WHOLE_DOCUMENT, Reach

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokensInPlace:
    """What a scale may read about the tokens held here.

    positions_T: int64 (T,), position in the document; what the rotation reads. place_T: int64 (T,), number of tokens
    of the stream before it in its document, whatever the positions are. reach: how far a token sees. length: sequence
    length in force, in tokens: that of the stage, or the one that an evaluation asks for; 0 unless the scale
    `reads_length`.
    """

    positions_T: "Tensor"
    place_T: "Tensor"
    reach: Reach = WHOLE_DOCUMENT
    length: int = 0

    @property
    def visible_T(self) -> "Tensor":  # noqa: N802
        """int64 (T,): number of keys that every token sees, itself included."""
        chunk, window = self.reach.chunk, self.reach.window
        keys_T = (self.place_T if chunk is None else self.place_T % chunk) + 1
        return keys_T if window is None else keys_T.clamp(max=window)


@dataclass
class PositionScale(ABC):
    """Settings of one scale. Mutable only because Hydra needs it; read-only by rule."""

    # Whether the factor has a learned part: a parameter of the model, which no stage can set.
    learned: ClassVar[bool] = False
    # Whether `factors` reads `TokensInPlace.positions_T`.
    reads_positions: ClassVar[bool] = True
    # Whether `factors` reads `TokensInPlace.length`.
    reads_length: ClassVar[bool] = False

    @abstractmethod
    def factors(self, tokens: TokensInPlace) -> "Tensor":
        """The factor of every token, float64 (T,); without its learned part."""

    @property
    def initial_weight(self) -> float:
        """Initial value of the learned part, of every head; a scale that is `learned` says its own."""
        return 1.0

    def is_one_within(self, length: int) -> bool:  # noqa: ARG002
        """Whether the factor of every position below `length` is 1, at a sequence length of `length` tokens."""
        return False

    def stage_problem(self, key: str) -> str:
        """Returns why a stage of the schedule cannot set this scale at `key`; empty if it can."""
        if not self.learned:
            return ""
        return (
            f"{key}: this scale has a parameter, which belongs to the model and not to a stage; set it at "
            "model.kinds.NAME.position_scale"
        )
