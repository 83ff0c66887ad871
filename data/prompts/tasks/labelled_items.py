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
_PARTS = 1 << 32


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
        """See `Writer`. The first label is the answer, or the one that is counted."""
        draws = request.draws()
        labels, persons = draws.sample(LABELS, _LABELS), draws.sample(NAMES, _PERSONS)
        (first, second), person = labels[:2], persons[0]
        pair = " and ".join(draws.shuffled(labels[:2]))
        if self.asked in ("count", "subset"):
            share = 0.1 + 0.4 * draws.part()
            items = _items(draws, request.size, labels, persons, [(1.0, first, share)])
            if not any((one.person, one.label) == (person, first) for one in items):
                items[-1] = Item(person, items[-1].noun, first)
        else:
            leaders = [(_LARGER, first, _LEADS), (1.0, second, _LEADS)]
            if draws.below(2):
                leaders = [(1 - _LARGER, second, _LEADS), (1.0, first, _LEADS)]
            items = _items(draws, request.size, labels, persons, leaders)
            _put_ahead(items, first, labels[1:] if self.asked == "majority" else [second])
        needed = [first, second] if self.asked == "compare" else [first]
        owners = [person] if self.asked == "subset" else persons
        needles = [one.label in needed and one.person in owners for one in items]
        question, answer = {
            "count": (f"The number of lines with the label {first} is", sum(needles)),
            "subset": (f"The number of lines of {person} with the label {first} is", sum(needles)),
            "majority": ("The label of the most lines is", first),
            "compare": (f"Of the labels {pair} the one with more lines is", first),
        }[self.asked]
        return Written(
            instruction="Each line has a person, a thing and a label.\n",
            lines=[
                Line(f"{one.person}, {one.noun}: {one.label}\n", needle=needle)
                for one, needle in zip(items, needles, strict=True)
            ],
            question=question,
            answer=f" {answer}",
        )


def _items(
    draws: Draws,
    size: int,
    labels: list[str],
    persons: list[str],
    leaders: list[tuple[float, str, float]],
) -> list[Item]:
    """Returns random items. leaders: up to which share of them which label leads, and its share of them there."""
    total = size + _LEAST - 1
    drawn = draws.each_below([_PARTS, _LABELS - 1, _PERSONS, len(NOUNS)] * total)
    items = []
    for number in range(total):
        leads, other, person, noun = drawn[4 * number : 4 * number + 4]
        place = (number + 0.5) / total
        _, leader, share = next(one for one in leaders if place < one[0])
        others = [label for label in labels if label != leader]
        label = leader if leads < share * _PARTS else others[other]
        items.append(Item(persons[person], NOUNS[noun], label))
    return items


def _put_ahead(items: list[Item], first: str, others: list[str]) -> None:
    """Gives items of the most frequent of the other labels the first one, until that is ahead of all."""
    while True:
        labels = [item.label for item in items]
        most = max(others, key=labels.count)
        if labels.count(first) > labels.count(most):
            return
        at = labels.index(most) if most in labels else 0
        items[at] = replace(items[at], label=first)
