"""A fact that is asked for in other words (after NoLiMa: Modarressi et al., arXiv 2502.05167).

    Ada keeps a small flat beside the Colosseum.   ...   The person who resides in Rome is | Ada

No content word of the question occurs in the fact, so it is not found by comparing words: the link is what a model
knows, here from `FACTS`, a small base of our own. Facts about other persons lie around it.
"""

from dataclasses import dataclass

from data.prompts.words import NAMES
from data.prompts.writing import Line, Request, Written

# The last facts are for worked examples only, so that a fact holds for one person of a prompt.
_EXAMPLES = 8
# What a line says of a person, and what the question says of the same person.
FACTS = (
    ("keeps a small flat beside the Colosseum", "resides in Rome"),
    ("keeps a small flat beside the Eiffel Tower", "resides in Paris"),
    ("keeps a small flat beside the Brandenburg Gate", "resides in Berlin"),
    ("keeps a small flat beside the Acropolis", "resides in Athens"),
    ("keeps a small flat beside the Kremlin", "resides in Moscow"),
    ("keeps a small flat beside Big Ben", "resides in London"),
    ("keeps a small flat beside the Prado", "resides in Madrid"),
    ("keeps a small flat beside the Blue Mosque", "resides in Istanbul"),
    ("keeps a small flat beside the Statue of Liberty", "resides in New York"),
    ("keeps a small flat beside the Golden Gate", "resides in San Francisco"),
    ("watched the sun go down behind the Pyramids", "was on holiday in Egypt"),
    ("watched the sun go down behind the Taj Mahal", "was on holiday in India"),
    ("watched the sun go down behind the Great Wall", "was on holiday in China"),
    ("watched the sun go down behind Mount Fuji", "was on holiday in Japan"),
    ("watched the sun go down behind Machu Picchu", "was on holiday in Peru"),
    ("watched the sun go down behind Ayers Rock", "was on holiday in Australia"),
    ("watched the sun go down behind Kilimanjaro", "was on holiday in Tanzania"),
    ("kneads dough before sunrise and sells fresh loaves", "works as a baker"),
    ("pulls bad teeth and fills the others", "works as a dentist"),
    ("brings letters and parcels to every door", "works as a postman"),
    ("flies a jet across the ocean", "works as a pilot"),
    ("shoes horses and beats glowing iron", "works as a blacksmith"),
    ("cuts hair and trims beards", "works as a barber"),
    ("milks cows and ploughs the fields", "works as a farmer"),
    ("puts out fires with a long hose", "works as a fireman"),
    ("lays bricks and mixes mortar", "works as a mason"),
    ("explains fractions to children at a blackboard", "works as a teacher"),
    ("hunts for new comets with a telescope", "studies astronomy"),
    ("presses leaves and counts petals", "studies botany"),
    ("reads bones that are millions of years old", "studies dinosaurs"),
    ("tunes four strings and rubs rosin on a bow", "plays the violin"),
    ("needs a racket and a net", "plays tennis"),
    ("moves rooks and bishops all evening", "plays chess"),
    ("gets ill from bread and pasta", "cannot stand gluten"),
    ("gets ill from cheese and yoghurt", "cannot stand milk"),
    ("sneezes whenever a kitten is near", "has an allergy to cats"),
)


@dataclass(frozen=True)
class LinkedFact:
    """The task. others: facts about other persons."""

    others: int = 4

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        names = draws.sample(NAMES, 1 + self.others)
        known = FACTS[-_EXAMPLES:] if request.worked else FACTS[:-_EXAMPLES]
        facts = draws.sample(known, 1 + self.others)
        lines = [
            Line(f"{name} {fact}.\n", draws.part() if number else request.depth, number == 0)
            for number, (name, (fact, _)) in enumerate(zip(names, facts, strict=True))
        ]
        return Written(
            instruction="",
            lines=sorted(lines, key=lambda line: line.depth),
            question=f"The person who {facts[0][1]} is",
            answer=f" {names[0]}",
        )
