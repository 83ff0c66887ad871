"""Common entries of a list: those that occur most often (RULER cwe, arXiv 2404.06654, section 3 and appendix B)."""

from data.prompts.words import ADJECTIVES, NOUNS, VERBS
from data.prompts.writing import Line, Request, Written

# Below so many tokens of the prompt entries occur less often, as in RULER's code; and below so many lines of the list,
# which is what there is room for if the tokens are short.
_SHORT, _LINES = 4_096, 330
_COMMON = 10
_WORDS = tuple(sorted({*ADJECTIVES, *NOUNS, *VERBS}))
# Pairs of words by number: prompts have the even ones, worked examples the odd ones.
_PAIRS = len(_WORDS) ** 2


class CommonWords:
    """A shuffled list of entries of two words, ten of which occur often."""

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        often, seldom, others = _counts(request)
        draws = request.draws()
        pairs = range(int(request.worked), _PAIRS, 2)
        entries = [_entry(pair) for pair in draws.sample(pairs, _COMMON + others)]
        common, rare = entries[:_COMMON], entries[_COMMON:]
        asked, listed = {*common}, draws.shuffled(common * often + rare * seldom)
        in_order = [entry for entry in dict.fromkeys(listed) if entry in asked]
        return Written(
            instruction="Some entries of this list occur more often than the others.\n",
            lines=[
                Line(f"{number}. {entry}\n", needle=entry in asked)
                for number, entry in enumerate(listed, start=1)
            ],
            question=f"Question: Which {_COMMON} entries occur most often, in the order of the list?\nAnswer:",
            answer=" " + ", ".join(in_order),
        )


def _counts(request: Request) -> tuple[int, int, int]:
    """Returns how often common and other entries occur, and how many others there are.

    The list has one more line, or as many, for a larger size, whichever counts it has.
    """
    short = request.length < _SHORT
    if request.worked:
        return (3, 1, 20 - _COMMON) if short else (10, 3, 40 - _COMMON)
    lines = 6 * _COMMON + request.size
    if short or lines < _LINES:
        return 6, 1, request.size
    return 30, 3, (lines - 30 * _COMMON) // 3


def _entry(pair: int) -> str:
    first, second = divmod(pair, len(_WORDS))
    return f"{_WORDS[first]} {_WORDS[second]}"
