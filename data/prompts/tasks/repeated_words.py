"""Repetitions at a distance: random words are to be written again; the depth sets how far back they lie.

    copy        filler   Words: w1 ... w8   filler           Words again: | w1 ... w8
    induction   random words  w1 ... w8     random words      w1 ... w4   | w5 ... w8

copy has a mark before the words and filler around them. induction (Olsson et al. 2022) has neither mark nor question:
the text itself begins to repeat, so only its continuation tells what comes next.
"""

from dataclasses import dataclass

from data.prompts.words import ADJECTIVES, NOUNS, VERBS
from data.prompts.writing import Line, Request, Written

# No word occurs twice.
WORDS = tuple(dict.fromkeys((*ADJECTIVES, *NOUNS, *VERBS)))
_BEGINNINGS = len(WORDS) ** 3


@dataclass(frozen=True)
class Copy:
    """The task copy. words: that are to be written again."""

    words: int = 8

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        text = _text(request.draws().each_below([len(WORDS)] * self.words))
        return Written(
            instruction="",
            lines=[Line(f"Words:{text}\n", request.depth, needle=True)],
            question="Words again:",
            answer=text,
        )


@dataclass(frozen=True)
class Induction:
    """The task induction; an item is a span of words. words: of each half of a span, 3 or more."""

    words: int = 4

    def write(self, request: Request) -> Written:
        """See `Writer`. No two spans have the same first three words."""
        draws, asked = request.draws(), request.asked_item
        beginnings = draws.different(request.size, _BEGINNINGS)
        each = 2 * self.words - 3
        drawn = draws.each_below([len(WORDS)] * (each * request.size))
        spans = []
        for number, beginning in enumerate(beginnings):
            words = _three(beginning) + drawn[each * number : each * (number + 1)]
            spans.append((_text(words[: self.words]), _text(words[self.words :])))
        return Written(
            instruction="",
            lines=[
                Line(first + second, needle=number == asked)
                for number, (first, second) in enumerate(spans)
            ],
            question=spans[asked][0],
            answer=spans[asked][1],
        )


def _text(words: list[int]) -> str:
    return "".join(f" {WORDS[word]}" for word in words)


def _three(number: int) -> list[int]:
    first, rest = divmod(number, len(WORDS) ** 2)
    return [first, *divmod(rest, len(WORDS))]
