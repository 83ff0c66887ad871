"""Common entries of a list: those that occur most often (RULER cwe, arXiv 2404.06654, section 3 and appendix B)."""

from dataclasses import dataclass

from data.prompts.words import ADJECTIVES, NOUNS, VERBS
from data.prompts.writing import Line, Request, Written

# Below so many tokens entries occur less often, as in RULER's code.
_SHORT = 4_096
_WORDS = tuple(sorted({*ADJECTIVES, *NOUNS, *VERBS}))
# Pairs of words by number; the last ones are those of worked examples.
_PAIRS = len(_WORDS) ** 2
_PAIRS_OF_EXAMPLES = 10_000


@dataclass(frozen=True)
class CommonWords:
    """A shuffled list of entries of two words. common: entries that occur often; the size counts the others."""

    common: int = 10

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        often, seldom, others = _counts(request)
        draws = request.draws()
        pairs = range(_PAIRS - _PAIRS_OF_EXAMPLES)
        if request.worked:
            pairs = range(_PAIRS - _PAIRS_OF_EXAMPLES, _PAIRS)
            others -= self.common
        entries = [_entry(pair) for pair in draws.sample(pairs, self.common + others)]
        asked = {*entries[: self.common]}
        listed = draws.shuffled(
            entries[: self.common] * often + entries[self.common :] * seldom,
        )
        in_order = [entry for entry in dict.fromkeys(listed) if entry in asked]
        return Written(
            instruction="Some entries of this list occur more often than the others.\n",
            lines=[
                Line(f"{number}. {entry}\n", needle=entry in asked)
                for number, entry in enumerate(listed, start=1)
            ],
            question=f"Question: Which {self.common} entries occur most often, in the order of the list?\nAnswer:",
            answer=" " + ", ".join(in_order),
        )


def _counts(request: Request) -> tuple[int, int, int]:
    """Returns how often common and other entries occur, and how many others (in worked examples: all) there are."""
    short = request.length < _SHORT
    if request.worked:
        return (3, 1, 20) if short else (10, 3, 40)
    return (6, 1, request.size) if short else (30, 3, request.size)


def _entry(pair: int) -> str:
    first, second = divmod(pair, len(_WORDS))
    return f"{_WORDS[first]} {_WORDS[second]}"
