"""The i-th of several equal requests (after MRCR: Vodrahalli et al., arXiv 2409.12640, and OpenAI's variant).

Notes of random words lie in filler; several have the same subject, and one of these is asked for by its place among
them. The answer is preceded by a random code that the question gives.
"""

from dataclasses import dataclass

from data.prompts.words import ADJECTIVES, NOUNS, VERBS
from data.prompts.writing import Line, Request, Written

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@dataclass(frozen=True)
class RepeatedRequest:
    """The task. equal: notes with the asked subject, at most 8. others: notes with other subjects."""

    equal: int = 4
    others: int = 4
    words: int = 6

    def write(self, request: Request) -> Written:
        """See `Writer`. The depth is that of the asked note; equal notes before and after it lie on its two sides."""
        draws, depth = request.draws(), request.depth
        adjectives = draws.sample(ADJECTIVES, 1 + self.others)
        nouns = draws.sample(NOUNS, 1 + self.others)
        subject, *others = [f"the {one} {two}" for one, two in zip(adjectives, nouns, strict=True)]
        texts = [
            "".join(f" {draws.pick(VERBS)}" for _ in range(self.words))
            for _ in range(self.equal + self.others)
        ]
        asked, code = draws.below(self.equal), draws.hexadecimal(6)
        lines = []
        for number in range(self.equal):
            part = draws.part()
            at = depth * part if number < asked else depth + (1 - depth) * part
            at = depth if number == asked else at
            lines.append(Line(f"Note on {subject}:{texts[number]}.\n", at, number == asked))
        for other, text in zip(others, texts[self.equal :], strict=True):
            lines.append(Line(f"Note on {other}:{text}.\n", draws.part()))
        return Written(
            instruction="",
            lines=sorted(lines, key=lambda line: line.depth),
            question=f"Write {code} and then the {ORDINALS[asked]} note on {subject}: {code}",
            answer=texts[asked],
        )
