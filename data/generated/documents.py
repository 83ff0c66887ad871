"""What the tasks of generated sources share: their interface, their common settings and their random numbers.

    seed, number of the document --mix--> key of the document, purpose --mix--> key of a sequence of draws
                                                        key, place --mix(key + golden * place)--> 64 random bits

A document is a pure function of (seed, number): no state, no clock, no files, the same on every rank and platform. The
draws are those of SplitMix64 (Steele, Lea, Flood 2014) at any place, in integers alone. Training documents have the
numbers from 0 on and held-out documents those from HELD_OUT on, and `mix` is a bijection: no two of them have the same
key.
"""

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
from annotated_types import Ge, Le

from data.packing.document_order import GOLDEN, mix, mix_integers

# Number of the first held-out document.
HELD_OUT = 1 << 62
_LENGTH = 0x4C45_4E47


class Document(Protocol):
    """One document of a task, without BOS and end token: `length` symbols, each in [0, ids) of the settings."""

    @property
    def length(self) -> int: ...

    def symbols(self, start: int, stop: int) -> np.ndarray:
        """int64 symbols [start, stop); the cost follows the length of the piece, not of the document."""

    def labelled(self, start: int, stop: int) -> np.ndarray | None:
        """bool: which of the symbols [start, stop) count as targets.

        None: every target of the document counts, its end token too. With a mask the end token never counts.
        """

    def count_labelled(self, start: int, stop: int) -> int | None:
        """The number of symbols in [start, stop) that count, without making a symbol; None as for `labelled`."""


class Task(Protocol):
    """The documents of one source, by number."""

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """int64 lengths in symbols of the documents with these numbers."""

    def document(self, number: int) -> Document: ...


@dataclass(kw_only=True)
class GeneratedDocuments:
    """Settings that every task has."""

    # Documents of one epoch; document i is a pure function of the seed and i.
    documents: Annotated[int, Ge(1), Le(2**40)] = 1_000_000
    # Held-out documents for the evaluation, which no epoch contains; 0: none.
    heldout: Annotated[int, Ge(0), Le(2**24)] = 1_000
    # Fewest tokens of a document, BOS and end token included.
    min_length: Annotated[int, Ge(3), Le(2**31 - 1)] = 256
    # Most tokens of a document, BOS and end token included; lengths are uniform between both bounds.
    max_length: Annotated[int, Ge(3), Le(2**31 - 1)] = 256
    # Number of different ids that documents consist of, beside BOS and end token.
    ids: Annotated[int, Ge(2), Le(2**31 - 1)] = 64
    # The lowest of these ids. They follow each other, but for the BOS and the end token among them.
    first_id: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    # Seed of the documents. The run's seed decides their order only.
    seed: Annotated[int, Ge(0)] = 0

    @property
    def is_text(self) -> bool:
        """Whether the documents are text, in ids of the run's tokenizer instead of `ids` and `first_id`."""
        return False

    def problems(self) -> list[str]:
        """Returns every broken rule between these fields, one line each; keys are relative to the source's settings."""
        if self.min_length <= self.max_length:
            return []
        return [
            f"min_length={self.min_length}: is more than max_length={self.max_length}; give"
            f" max_length={self.min_length}"
        ]

    def warnings(self) -> list[str]:
        """Returns what is allowed and may surprise, one line each; keys as in `problems`."""
        return []

    def room_problems(self, needed: int, what: str) -> list[str]:
        """Returns a line if a shortest document has no room for `needed` symbols, of `what`, BOS and end token."""
        if self.min_length >= needed + 2:
            return []
        return [
            f"min_length={self.min_length}: {what}, BOS and end token are {needed + 2} tokens; give"
            f" min_length={needed + 2} or more"
        ]

    def largest_id(self, *special: int | None) -> int:
        """The largest id that symbols have, where the ids `special` are left out."""
        largest = self.first_id + self.ids - 1
        for one in sorted({one for one in special if one is not None}):
            largest += self.first_id <= one <= largest
        return largest

    def symbol_ids(self, *special: int | None) -> np.ndarray:
        """int64 (ids,): the id of each symbol, where the ids `special` are left out."""
        around = np.arange(self.first_id, self.largest_id(*special) + 1)
        return around[~np.isin(around, [one for one in special if one is not None])]

    def room(self, numbers: np.ndarray, num_special: int) -> np.ndarray:
        """int64 symbols that the documents have room for, beside `num_special` tokens that the task does not make."""
        draws = draw(self.seed, numbers, _LENGTH)
        return below(draws, self.max_length - self.min_length + 1) + self.min_length - num_special

    def room_of_one(self, number: int, num_special: int) -> int:
        """The same for one document, which costs less."""
        drawn = one_below(key(self.seed, number, _LENGTH), self.max_length - self.min_length + 1)
        return drawn + self.min_length - num_special


def draw(seed: int, numbers: np.ndarray, purpose: int) -> np.ndarray:
    """uint64: random bits of each document for one purpose; those of one document are `key(seed, number, purpose)`."""
    keys = mix(numbers.astype(np.uint64) ^ np.uint64(mix_integers(seed)))
    return mix(keys ^ np.uint64(purpose))


def key(seed: int, number: int, purpose: int) -> int:
    """Random bits of one document for one purpose: a number, or the key of a sequence of draws."""
    return mix_integers(seed, number, purpose)


def draws_at(sequence: int, places: np.ndarray) -> np.ndarray:
    """uint64: the random bits at `places` (integers) of the sequence of draws with the key `sequence`."""
    with np.errstate(over="ignore"):
        return mix(places.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(sequence))


def below(draws: np.ndarray, limit: int) -> np.ndarray:
    """int64 numbers in [0, limit) from random bits; 1 <= limit <= 2**32."""
    return ((draws >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def one_below(draw: int, limit: int) -> int:
    """The same for the random bits of one draw."""
    return (draw >> 32) * limit >> 32
