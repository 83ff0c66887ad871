"""RULER's needles: values noted for keys, asked for at the end (arXiv 2404.06654, section 3 and appendix B).

niah_single_1    one note in noise                niah_multikey_1   three more notes with other keys
niah_single_2    one note in documents            niah_multikey_2   notes are all the context
niah_single_3    the value is a UUID              niah_multikey_3   the same, keys and values are UUIDs
niah_multivalue  four values of one key           niah_multiquery   four keys are asked for
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data.prompts.draws import Draws
from data.prompts.words import ADJECTIVES, NOUNS
from data.prompts.writing import Line, Request, Written

# Draws a key or a value.
Drawn = Callable[[Draws], str]
_INSTRUCTION = "Remember the notes in this text. A question about them follows it.\n"


def word_key(draws: Draws) -> str:
    """Returns an adjective and a noun with a hyphen."""
    return f"{draws.pick(ADJECTIVES)}-{draws.pick(NOUNS)}"


def seven_digits(draws: Draws) -> str:
    """Returns a number of seven digits."""
    return draws.digits(7)


@dataclass(frozen=True)
class Needles:
    """Notes in filler. keys: different keys. values: notes of each key. queries: keys that are asked for.

    The first note that is asked for lies at the depth of the request, the others that are asked for behind it, and
    notes of other keys anywhere.
    """

    keys: int = 1
    values: int = 1
    queries: int = 1
    value: Drawn = seven_digits

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        keys = different(draws, word_key, self.keys)
        values = different(draws, self.value, self.keys * self.values)
        noted = [key for key in keys for _ in range(self.values)]
        asked = self.queries * self.values
        depths = draws.depths_from(request.depth, asked)
        if self.queries > 1:
            depths = draws.shuffled(depths)
        depths += [draws.part() for _ in noted[asked:]]
        lines = [
            Line(_note(key, value), depth, needle=place < asked)
            for place, (key, value, depth) in enumerate(zip(noted, values, depths, strict=True))
        ]
        return Written(
            instruction=_INSTRUCTION,
            lines=sorted(lines, key=lambda line: line.depth),
            question=self._question(keys[: self.queries]),
            answer=" " + ", ".join(values[:asked]),
        )

    def _question(self, keys: Sequence[str]) -> str:
        if self.values > 1:
            return f"Question: Which {self.values} values are noted for {keys[0]}, in the order of the text?\nAnswer:"
        if self.queries > 1:
            return (
                f"Question: Which values are noted for {', '.join(keys)}, in this order?\nAnswer:"
            )
        return _asked(keys[0])


@dataclass(frozen=True)
class NeedlesAlone:
    """As many notes as fit; one of them, at the depth of the request, is asked for."""

    key: Drawn = word_key
    value: Drawn = seven_digits

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        key, value = self.key(draws), self.value(draws)
        lines = []
        for _ in range(request.size - 1):
            other, stranger = self.key(draws), self.value(draws)
            while other == key or stranger == value:
                other, stranger = self.key(draws), self.value(draws)
            lines.append(Line(_note(other, stranger)))
        lines.insert(round(request.depth * len(lines)), Line(_note(key, value), needle=True))
        return Written(_INSTRUCTION, lines, _asked(key), f" {value}")


def different(draws: Draws, one: Drawn, count: int) -> list[str]:
    """Returns `count` different draws."""
    found = dict[str, None]()
    while len(found) < count:
        found[one(draws)] = None
    return list(found)


def _note(key: str, value: str) -> str:
    return f"The value noted for {key} is {value}.\n"


def _asked(key: str) -> str:
    return f"Question: Which value is noted for {key}?\nAnswer: The value noted for {key} is"
