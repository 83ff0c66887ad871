"""What a task writes: a prompt in parts, as text. `data/prompts/fill.py` makes tokens of the asked length from it.

    instruction | line ... filler ... needle ... filler ... line | question | answer
                  context                                                     scored

A task is a pure function of (seed, number, depth, size): no state, no clock, no files but those it was opened with.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from data.generated.documents import key
from data.prompts.draws import Draws


@dataclass(frozen=True)
class Request:
    """Which prompt is wanted.

    number: of the prompt. depth: in [0, 1], the share of the context before the first line that is asked for; tasks
    without a depth ignore it. size: number of items of the context, for tasks whose context is not filler; 1 is the
    smallest. length: tokens that the whole prompt is to have with its answer; 0 if unknown. worked: whether this is a
    worked example in front of a prompt, which has no filler; such a request has size 1.
    """

    seed: int
    number: int
    depth: float = 0.5
    size: int = 1
    length: int = 0
    worked: bool = False

    def draws(self, purpose: str = "") -> Draws:
        """Returns the draws of this prompt for one purpose; they depend on its seed and number alone."""
        return Draws(key(self.seed, self.number, zlib.crc32(purpose.encode())))

    @property
    def asked_item(self) -> int:
        """The number of the item that lies at the depth, of `size` items."""
        return round(self.depth * (self.size - 1))


@dataclass(frozen=True)
class Line:
    """A line of the context, with its end ("\\n" or a space).

    depth: share of the filler before the line, in tasks with filler. needle: whether the answer follows from it; the
    controls take these lines away.
    """

    text: str
    depth: float = 0.0
    needle: bool = False


@dataclass(frozen=True)
class Written:
    """One prompt as text. Every part is tokenised apart, so each ends where a token ends: after "\\n" or before " ".

    Two line ends in a row are one token for some tokenizers and two for others, and dots are one with the line end
    behind them, so no part ends with "\\n\\n" and none begins with "\\n" behind dots (`Maker.joined_otherwise`).

    instruction: before the context; may be empty. lines: of the context, in order of depth. question: from the end of
    the context up to the answer. answer: what the model is to write next, the space before it included. right: False
    for a candidate document that does not hold the answer (tasks judged by likelihood).
    """

    instruction: str
    lines: Sequence[Line]
    question: str
    answer: str
    right: bool = True


class Writer(Protocol):
    """Interface: a task that writes prompts."""

    def write(self, request: Request) -> Written:
        """Returns the prompt. With a larger size it has more items, or as many; the same request gives the same."""
