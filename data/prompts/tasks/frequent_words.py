"""Frequent words of a coded text: their counts fall as 1 / rank^2 (RULER fwe, arXiv 2404.06654, appendix B)."""

import math
from dataclasses import dataclass

from data.prompts.tasks.needles import different
from data.prompts.writing import Line, Request, Written

_LETTERS, _DOTS = 6, "..."
# The zeta function at 2, the sum of all 1 / rank^2.
_ZETA = math.pi**2 / 6
# Words of the smallest text, whose ranks 1 to 6 have 36, 9, 4, 2, 1 and 1 words; later ones have none.
_SMALLEST, _RANKS_OF_SMALLEST = 60, 6
# Tokens of the prompt for each word of the vocabulary.
_TOKENS_OF_WORD = 50


@dataclass(frozen=True)
class FrequentWords:
    """Words of random letters. Rank 1 is written as dots; ranks 2 to `asked` + 1 are asked for."""

    asked: int = 3

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        total = _SMALLEST + request.size - 1
        counts = counts_by_rank(total, max(_RANKS_OF_SMALLEST, request.length // _TOKENS_OF_WORD))
        words = different(draws, lambda draws: draws.letters(_LETTERS), len(counts) - 1)
        asked, ranked = words[: self.asked], zip((_DOTS, *words), counts, strict=True)
        text = draws.shuffled([word for word, count in ranked for _ in range(count)])
        while text[-1] == _DOTS or text[-1] in asked:  # dots and a line end may be one token
            text.insert(0, text.pop())
        return Written(
            instruction="Count the words of this coded text. Dots do not count.\n",
            lines=[Line(f" {word}", needle=word in asked) for word in text],
            question=(
                f"\nQuestion: Which {self.asked} words occur most often, the most frequent first?\nAnswer:"
            ),
            answer=" " + ", ".join(asked),
        )


def counts_by_rank(total: int, vocabulary: int) -> list[int]:
    """Returns how often the words of ranks 1, 2, ... occur in a text of about `total` words, without those at 0."""
    counts = (int(total / (rank * rank * _ZETA)) for rank in range(1, vocabulary + 1))
    return [count for count in counts if count]
