"""Counts over all items (after Oolong: Bertsch et al., arXiv 2511.02817): the whole context matters.

    Ada, otter: red   Cleo, bridge: blue   Ada, lamp: red   ...    count of red: 2   majority: red   red or blue: red

Every line has a person, a thing and one of four labels. subset counts a label among one person's lines only. For
majority and compare one label leads in a larger part of the context and another in the rest, so the last part alone
does not tell the answer.
"""

from dataclasses import dataclass, replace
from typing import Literal

from data.prompts.draws import Draws
from data.prompts.words import NAMES, NOUNS
from data.prompts.writing import Line, Request, Written

Asked = Literal["count", "subset", "majority", "compare"]
LABELS = (
    *("red", "blue", "green", "black", "white", "brown"),
    *("pink", "grey", "yellow", "violet", "silver", "golden"),
)
_LABELS, _PERSONS = 4, 5
# Lines of the smallest context; share of the context in which the answer leads, and a leading label's share of lines.
_LEAST, _LARGER, _LEADS = 4, 0.6, 0.5


@dataclass(frozen=True)
class Item:
    """A line of the context."""

    person: str
    noun: str
    label: str


@dataclass(frozen=True)
class LabelledItems:
    """The task; an item is a line."""

    asked: Asked

    def write(self, request: Request) -> Written:
        """See `Writer`."""
        draws = request.draws()
        labels, persons = draws.sample(LABELS, _LABELS), draws.sample(NAMES, _PERSONS)
        (first, second), person = labels[:2], persons[0]
        pair = " and ".join(draws.shuffled(labels[:2]))
        late, share = draws.below(2), 0.1 + 0.4 * draws.part()
        counted, total = self.asked in ("count", "subset"), request.size + _LEAST - 1
        items = []
        for number in range(total):
            place = (number + 0.5) / total
            first_leads = counted or (place > 1 - _LARGER if late else place < _LARGER)
            label = _label(draws, labels, first_leads, share if counted else _LEADS)
            items.append(Item(draws.pick(persons), draws.pick(NOUNS), label))
        needed = {first, second} if self.asked == "compare" else {first}
        if counted:
            items[-1] = Item(person, items[-1].noun, first)  # no count is 0
        else:
            _put_ahead(items, first, labels[1:] if self.asked == "majority" else [second])
        needles = [
            one.label in needed and (self.asked != "subset" or one.person == person)
            for one in items
        ]
        question = {
            "count": f"The number of lines with the label {first} is",
            "subset": f"The number of lines of {person} with the label {first} is",
            "majority": "The label of the most lines is",
            "compare": f"Of the labels {pair} the one with more lines is",
        }
        return Written(
            instruction="Each line has a person, a thing and a label.\n",
            lines=[
                Line(f"{one.person}, {one.noun}: {one.label}\n", needle=needle)
                for one, needle in zip(items, needles, strict=True)
            ],
            question=question[self.asked],
            answer=f" {sum(needles) if counted else first}",
        )


def _label(draws: Draws, labels: list[str], first_leads: bool, share: float) -> str:
    """Returns the first label with a probability of `share` and the others equally, or the second label so."""
    leads, other = draws.part() < share, draws.below(len(labels) - 1)
    if first_leads:
        return labels[0] if leads else labels[1 + other]
    return labels[1] if leads else [labels[0], *labels[2:]][other]


def _put_ahead(items: list[Item], first: str, others: list[str]) -> None:
    """Gives items of the most frequent of the other labels the first one, until that is ahead of all."""
    while True:
        labels = [item.label for item in items]
        most = max(others, key=labels.count)
        if labels.count(first) > labels.count(most):
            return
        at = labels.index(most) if most in labels else 0
        items[at] = replace(items[at], label=first)
