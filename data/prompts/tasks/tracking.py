"""Variable tracking: a chain of names that get one value (RULER vt, arXiv 2404.06654, section 3 and appendix B)."""

from dataclasses import dataclass

from data.prompts.draws import Draws
from data.prompts.filler import NOISE
from data.prompts.tasks.needles import different
from data.prompts.writing import Line, Request, Written

_LETTERS, _LETTERS_OF_EXAMPLES = 5, 3


@dataclass(frozen=True)
class Tracking:
    """One chain. hops: assignments of a name to the next one.

    The first assignment lies at the depth of the request, the others behind it in their order. Worked examples have
    shorter names, so none is a name of the prompt, and one sentence of noise before each assignment.
    """

    hops: int = 4

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        letters = _LETTERS_OF_EXAMPLES if request.worked else _LETTERS

        def name(draws: Draws) -> str:
            return draws.letters(letters).upper()

        value, names = draws.digits(5), different(draws, name, self.hops + 1)
        texts = [
            f"Set {one} to {given}.\n" for one, given in zip(names, (value, *names), strict=False)
        ]
        depths = draws.depths_from(request.depth, len(texts))
        lines = []
        for text, depth in zip(texts, depths, strict=True):
            if request.worked:
                lines.append(Line(draws.pick(NOISE)))
            lines.append(Line(text, depth, needle=True))
        return Written(
            instruction="Follow the values that names get in this text.\n",
            lines=lines,
            question=f"Question: Which {len(names)} names have the value {value}, in the order of the text?\nAnswer:",
            answer=" " + ", ".join(names),
        )
