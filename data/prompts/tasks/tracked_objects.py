"""Persons, places and objects (after BABILong: Kuratov et al., arXiv 2406.10149, on bAbI, arXiv 1502.05698).

    Ada went to the attic.   filler   Ada took the ball.   filler   Ada went to the park.   filler   Where is the ball?

Persons move, take objects and put them down in a simulated world; the events lie in order in filler and the latest
counts. With one supporting fact a person's place is asked for; with two, that of an object which somebody carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from data.prompts.draws import Draws
from data.prompts.words import NAMES, OBJECTS, PLACES
from data.prompts.writing import Line, Request, Written

_TRIED = 1_000
# Fewest events after the supporting ones: else the place that the text names last would often be the answer.
_LATER = 4


@dataclass(frozen=True)
class Event:
    """Something that a person did, to a place or an object."""

    person: str
    did: Literal["went to", "took", "put down"]
    thing: str

    @property
    def text(self) -> str:
        """The sentence, with the end of its line."""
        return f"{self.person} {self.did} the {self.thing}.\n"


@dataclass(frozen=True)
class TrackedObjects:
    """The task. facts: supporting ones, 1 or 2. events: all; persons, places, objects: that occur in them."""

    facts: Literal[1, 2]
    events: int = 16
    persons: int = 4
    places: int = 6
    objects: int = 3

    def write(self, request: Request) -> Written:
        """See `Writer`. The depth is that of the last supporting fact."""
        draws, depth = request.draws(), request.depth
        asked, events, support = self._story(draws)
        before, after = support[-1], len(events) - support[-1] - 1
        depths = sorted(depth * draws.part() for _ in range(before))
        depths += [depth, *sorted(depth + (1 - depth) * draws.part() for _ in range(after))]
        return Written(
            instruction="",
            lines=[
                Line(event.text, at, needle=number in support)
                for number, (event, at) in enumerate(zip(events, depths, strict=True))
            ],
            question=f"Where is {asked}? Now {asked} is in the",
            answer=f" {place_of(asked, events)}",
        )

    def _story(self, draws: Draws) -> tuple[str, list[Event], list[int]]:
        """Returns who or what is asked for, the events, and the places of the supporting ones among them.

        Without the supporting events the answer would be another.
        """
        for _ in range(_TRIED):
            names, things = draws.sample(NAMES, self.persons), draws.sample(OBJECTS, self.objects)
            events = _world(draws, names, draws.sample(PLACES, self.places), things, self.events)
            candidates = names if self.facts == 1 else [f"the {thing}" for thing in things]
            asked = draws.pick(candidates)
            support = supporting(asked, events)
            kept = [event for at, event in enumerate(events) if at not in support]
            earlier = place_of(asked, kept)
            enough = len(support) == self.facts and self.events - support[-1] > _LATER
            if enough and earlier != place_of(asked, events):
                return asked, events, support
        raise AssertionError("no story has a question")


def _world(
    draws: Draws, names: Sequence[str], places: Sequence[str], things: Sequence[str], count: int
) -> list[Event]:
    """Returns events that are possible one after the other: who takes a thing is where it lies and carries no other."""
    at: dict[str, str] = {}
    lies: dict[str, str] = {}
    carried: dict[str, str] = {}
    events = list[Event]()
    while len(events) < count:
        name = draws.pick(names)
        here = [thing for thing in things if lies.get(thing, "") in ("", at.get(name))]
        here = [thing for thing in here if thing not in carried.values()]
        match draws.below(4):
            case 2 if name in at and name in carried:
                thing = carried.pop(name)
                lies[thing] = at[name]
                events.append(Event(name, "put down", thing))
            case 3 if name in at and name not in carried and here:
                carried[name] = draws.pick(here)
                events.append(Event(name, "took", carried[name]))
            case _:
                at[name] = draws.pick([place for place in places if place != at.get(name)])
                events.append(Event(name, "went to", at[name]))
    return events


def place_of(asked: str, events: Sequence[Event]) -> str:
    """Returns where a person ("Ada") or an object ("the ball") is after the events; empty if they do not tell."""
    at: dict[str, str] = {}
    lies: dict[str, str] = {}
    carrier: dict[str, str] = {}
    for event in events:
        match event.did:
            case "went to":
                at[event.person] = event.thing
            case "took":
                carrier[event.thing] = event.person
            case "put down":
                carrier.pop(event.thing, None)
                lies[event.thing] = at.get(event.person, "")
    thing = asked.removeprefix("the ")
    if thing in carrier:
        return at.get(carrier[thing], "")
    return lies.get(thing, at.get(thing, ""))


def supporting(asked: str, events: Sequence[Event]) -> list[int]:
    """Returns the places of the events that tell where a person or a carried object is; none if it lies somewhere."""
    thing = asked.removeprefix("the ")
    about = [n for n, one in enumerate(events) if one.thing == thing and one.did != "went to"]
    if about and events[about[-1]].did == "put down":
        return []
    person = events[about[-1]].person if about else asked
    moves = [n for n, one in enumerate(events) if one.person == person and one.did == "went to"]
    return sorted([*about[-1:], *moves[-1:]])
