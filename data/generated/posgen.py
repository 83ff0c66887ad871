"""PosGen: every token is a sum of a few tokens before it, modulo the number of ids (Resonance RoPE, arXiv 2403.00071).

    l: place of the token, j = far, k = near, m = ids           seed: the first j + k symbols
    recursive         x_l = x_{l-j-k} + ... + x_{l-1}                                 mod m
    chain_of_thought  x_l = x_0 + ... + x_{j-1}      +  x_{l-k} + ... + x_{l-1}       mod m
    semi_recursive    x_l = x_p + ... + x_{p+j-1}    +  x_{l-k} + ... + x_{l-1}       mod m,  p = floor((l - j - k) / 2)

The rule is the same at every place, so a long document is not more difficult than a short one but for the distances:
what a model loses beyond its training length, its positions lose. Every symbol after the seed counts.

All m^(j+k) seeds, in one fixed order that no setting changes, are cut into three sets: a tenth each for validation and
test, the rest for training. Training documents take seeds of their set in an order of their own, held-out documents
those of `heldout_set`; more documents than a set has seeds repeat it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from data.generated.documents import HELD_OUT, GeneratedDocuments
from data.packing.document_order import mix_integers, shuffled

_SETS, _ORDER = 0x5345_5453, 0x4F52_4445
_MOST_SEEDS = 1 << 48


@dataclass(kw_only=True)
class PosGen(GeneratedDocuments):
    """Sequences in which each symbol is a sum of earlier ones; all but the seed count as targets."""

    task: Literal["posgen"]
    # Documents of one epoch. A set of seeds is repeated where it has fewer.
    documents: Annotated[int, Ge(1), Le(2**40)] = 10_000
    # The modulus: symbols are 0 to ids - 1, and the next symbol is a sum modulo ids.
    ids: Annotated[int, Ge(2), Le(2**31 - 1)] = 17
    # Which symbols are summed beside the `near` ones. recursive: the `far` symbols just before those. chain_of_thought:
    # the first `far` of the document. semi_recursive: `far` symbols that advance by one every second symbol.
    rule: Literal["recursive", "chain_of_thought", "semi_recursive"] = "recursive"
    # Symbols of a sum that may be far away, in tokens.
    far: Annotated[int, Ge(1), Le(64)] = 1
    # Symbols of a sum just before the next one, in tokens.
    near: Annotated[int, Ge(1), Le(64)] = 3
    # The seeds of the held-out documents; training documents have those of a third set.
    heldout_set: Literal["validation", "test"] = "validation"

    @property
    def num_given(self) -> int:
        """Symbols of a seed."""
        return self.far + self.near

    @property
    def num_seeds(self) -> int:
        """Number of different seeds, of all sets together."""
        return int(self.ids**self.num_given)

    def seeds_of(self, number: int) -> range:
        """Returns the places, in the fixed order of all seeds, of the set that a document of this number belongs to."""
        tenth = self.num_seeds // 10
        train = self.num_seeds - 2 * tenth
        if number < HELD_OUT:
            return range(train)
        first = train if self.heldout_set == "validation" else train + tenth
        return range(first, first + tenth)

    def problems(self) -> list[str]:
        """Returns every broken rule between these fields, one line each."""
        found = super().problems()
        found += self.room_problems(self.num_given + 1, "a seed and a symbol after it")
        if not 10 <= self.num_seeds <= _MOST_SEEDS:
            found.append(
                f"ids={self.ids}: with far={self.far} and near={self.near} there are {self.ids}^{self.num_given} seeds,"
                " which must be between 10 and 2^48; give another number of them"
            )
        return found

    def warnings(self) -> list[str]:
        """Returns a line for training and for held-out documents that repeat seeds."""
        return [
            f"{field}={wanted}: the set has {len(seeds)} seeds, so only {len(seeds)} documents differ but in length; "
            f"give {field}={len(seeds)} or less to have none twice"
            for field, wanted, first in (
                ("documents", self.documents, 0),
                ("heldout", self.heldout, HELD_OUT),
            )
            if wanted > len(seeds := self.seeds_of(first))
        ]


@dataclass(frozen=True)
class PosGenDocument:
    """One document. given: the symbols of its seed."""

    settings: PosGen
    given: tuple[int, ...]
    length: int

    def symbols(self, start: int, stop: int) -> np.ndarray:
        """Returns the symbols [start, stop); the first call makes them all."""
        return self._all[start:stop]

    def labelled(self, start: int, stop: int) -> np.ndarray:
        """Returns which symbols come after the seed."""
        return np.arange(start, stop) >= self.settings.num_given

    def count_labelled(self, start: int, stop: int) -> int:
        """Returns how many of the symbols [start, stop) count."""
        return max(0, stop - max(start, self.settings.num_given))

    @cached_property
    def _all(self) -> np.ndarray:
        far, near, ids = self.settings.far, self.settings.near, self.settings.ids
        made = list(self.given)
        for place in range(len(made), self.length):
            at = self._first_far(place)
            made.append((sum(made[at : at + far]) + sum(made[place - near :])) % ids)
        return np.array(made[: self.length], dtype=np.int64)

    def _first_far(self, place: int) -> int:
        """Returns the place of the first far symbol in the sum at `place`."""
        after = place - self.settings.num_given
        match self.settings.rule:
            case "recursive":
                return after
            case "chain_of_thought":
                return 0
            case "semi_recursive":
                return after // 2


class PosGenTask:
    """The documents of the settings, by number."""

    def __init__(self, settings: PosGen, num_special: int) -> None:
        self._settings, self._num_special = settings, num_special

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the symbols of the documents with these numbers."""
        return self._settings.room(numbers, self._num_special)

    def document(self, number: int) -> PosGenDocument:
        """Returns the document of this number."""
        length = self._settings.room_of_one(number, self._num_special)
        [given] = self.given(np.array([number])).tolist()
        return PosGenDocument(self._settings, tuple(given), length)

    def given(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the seeds of the documents with these numbers, all training or all held-out: (n, far + near)."""
        settings = self._settings
        places = settings.seeds_of(int(numbers[0]))
        turns = np.where(numbers >= HELD_OUT, numbers - HELD_OUT, numbers) % len(places)
        order = mix_integers(settings.seed, _ORDER)
        at = shuffled(turns, len(places), seed=order, source=0, epoch=0) + places.start
        seeds = shuffled(at, settings.num_seeds, seed=_SETS, source=0, epoch=0)
        return np.stack(
            [seeds // settings.ids**i % settings.ids for i in range(settings.num_given)], 1
        )
