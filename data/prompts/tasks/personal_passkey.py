"""Personalised passkey: which document holds a person's key (LongEmbed, Zhu et al., arXiv 2404.12096).

    document of Ada      filler  The pass key of Ada is 51027.   filler     The pass key of Cleo is | 33915
    document of Bruno    filler  The pass key of Bruno is 72240. filler     The pass key of Cleo is | 33915
    document of Cleo     filler  The pass key of Cleo is 33915.  filler     The pass key of Cleo is | 33915    <- right

Every group of `CANDIDATES` prompts asks for one person's key after documents of different persons. The document after
which the answer has the smallest loss must be that person's.
"""

from dataclasses import dataclass, replace

from data.prompts.tasks.needles import different
from data.prompts.words import NAMES
from data.prompts.writing import Line, Request, Written

CANDIDATES = 10
# The last names are for worked examples only, so that a person has one key in a prompt.
_EXAMPLES = 20


@dataclass(frozen=True)
class PersonalPasskey:
    """The task. candidates: documents a group. digits: of a key."""

    candidates: int = CANDIDATES
    digits: int = 5

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        group, place = divmod(request.number, self.candidates)
        draws = replace(request, number=group).draws("group")
        known = NAMES[-_EXAMPLES:] if request.worked else NAMES[:-_EXAMPLES]
        names = draws.sample(known, self.candidates)
        keys = different(draws, lambda draws: draws.digits(self.digits), self.candidates)
        asked = draws.below(self.candidates)
        return Written(
            instruction="",
            lines=[
                Line(
                    f"The pass key of {names[place]} is {keys[place]}.\n",
                    request.depth,
                    needle=True,
                )
            ],
            question=f"The pass key of {names[asked]} is",
            answer=f" {keys[asked]}",
            right=place == asked,
        )
