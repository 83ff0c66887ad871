"""Copies at a distance: a random span of tokens is repeated `distance` tokens later; only the repetition counts.

    lead              block of distance + span tokens                    block            ...
    x x x x | s0 s1 s2 s3  x x x x x x x x  s0 s1 s2 s3 | t0 t1 t2 t3  x x x x x x x x  t0 t1 t2 t3 | ...
            |                               -  ^  ^  ^  |                               -  ^  ^  ^     ^: counts

What is not a repetition is uniform noise, and so is the lead, whose random length keeps the places of the spans from
being known. The first token of a repetition does not count: nothing foretells it. A model that has learned to continue
what it has seen (induction: Olsson et al. 2022) predicts the others; by distance they show how far it looks back.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from data.generated.documents import GeneratedDocuments, below, draws_at, key, one_below

_SYMBOLS, _DISTANCE, _LEAD = 0x5359_4D42, 0x4449_5354, 0x4C45_4144


@dataclass(kw_only=True)
class Copy(GeneratedDocuments):
    """Spans of random tokens that are repeated after a distance; only the repetitions count as targets."""

    task: Literal["copy"]
    # Tokens of a repeated span; all but the first one of a repetition count.
    span: Annotated[int, Ge(2), Le(2**31 - 1)] = 16
    # Fewest tokens from a token to its repetition.
    min_distance: Annotated[int, Ge(2), Le(2**31 - 1)] = 64
    # Most tokens from a token to its repetition; a document has one distance, uniform between both bounds.
    max_distance: Annotated[int, Ge(2), Le(2**31 - 1)] = 64

    def problems(self) -> list[str]:
        """Returns every broken rule between these fields, one line each."""
        found = super().problems()
        if self.min_distance > self.max_distance:
            found.append(
                f"min_distance={self.min_distance}: is more than max_distance={self.max_distance}; give"
                f" max_distance={self.min_distance}"
            )
        if self.span > self.min_distance:
            found.append(
                f"span={self.span}: is longer than min_distance={self.min_distance}, so a span would overlap its"
                f" repetition; give span={self.min_distance} or less"
            )
        block = self.max_distance + self.span
        return found + self.room_problems(block, "a span, its repetition and what is between them")


@dataclass(frozen=True)
class CopyDocument:
    """One document. lead: symbols before the first block. sequence: the key of its draws, one a symbol."""

    length: int
    ids: int
    sequence: int
    span: int
    distance: int
    lead: int

    def symbols(self, start: int, stop: int) -> np.ndarray:
        """Returns the symbols [start, stop): at a repetition, the draw of `distance` places before."""
        places = np.arange(start, stop)
        repeats = self._in_block(places) >= self.distance
        return below(draws_at(self.sequence, places - repeats * self.distance), self.ids)

    def labelled(self, start: int, stop: int) -> np.ndarray:
        """Returns which symbols repeat one, and are not the first to do so."""
        return np.asarray(self._in_block(np.arange(start, stop)) > self.distance)

    def count_labelled(self, start: int, stop: int) -> int:
        """Returns how many of the symbols [start, stop) count."""
        return self._count_before(stop) - self._count_before(start)

    def _in_block(self, places: np.ndarray) -> np.ndarray:
        """Returns the place of each symbol in its block; below 0 in the lead."""
        after = places - self.lead
        return np.where(after < 0, after, after % (self.distance + self.span))

    def _count_before(self, place: int) -> int:
        blocks, rest = divmod(max(0, place - self.lead), self.distance + self.span)
        return blocks * (self.span - 1) + max(0, rest - self.distance - 1)


class CopyTask:
    """The documents of the settings, by number."""

    def __init__(self, settings: Copy, num_special: int) -> None:
        self._settings, self._num_special = settings, num_special

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the symbols of the documents with these numbers."""
        return self._settings.room(numbers, self._num_special)

    def document(self, number: int) -> CopyDocument:
        """Returns the document of this number."""
        settings = self._settings
        length = settings.room_of_one(number, self._num_special)
        distances = settings.max_distance - settings.min_distance + 1
        drawn = one_below(key(settings.seed, number, _DISTANCE), distances)
        distance = settings.min_distance + drawn
        block = distance + settings.span
        most = min(block, length - block)
        return CopyDocument(
            length=length,
            ids=settings.ids,
            sequence=key(settings.seed, number, _SYMBOLS),
            span=settings.span,
            distance=distance,
            lead=one_below(key(settings.seed, number, _LEAD), most + 1),
        )
