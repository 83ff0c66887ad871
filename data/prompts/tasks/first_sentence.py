"""First sentence: the text begins with a sentence of ours, which is to be written again at the end."""

from data.prompts.words import ADJECTIVES, NAMES, NOUNS, PLACES, VERBS
from data.prompts.writing import Line, Request, Written


class FirstSentence:
    """The task."""

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        name, verb, adjective = map(draws.pick, (NAMES, VERBS, ADJECTIVES))
        noun, place = draws.pick(NOUNS), draws.pick(PLACES)
        sentence = f"{name} wants to {verb} the {adjective} {noun} in the {place}."
        return Written(
            instruction="Text:\n",
            lines=[Line(f"{sentence}\n", depth=0.0, needle=True)],
            question="The first sentence of the text is:",
            answer=f" {sentence[:-1]}",
        )
