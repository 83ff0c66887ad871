"""Associative recall: pairs of a random key and a random value, then queries; only the values of the queries count.

    x x | k0 v0  k1 v1  k2 v2  ...  kn vn | k2 v2  k0 v0  ...
    lead| pairs                           | queries: ^     ^      ^: counts

The lead fills the document up to its length, with symbols that values have. The keys of a document differ from each
other. Keys are written in the first half of the ids and values in the second, so that a value is never taken for a key.
A query repeats the key of a random pair, and no pair is asked for twice (multi-query associative recall, Arora et al.
2023, with the queries at the end).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from data.generated.documents import GeneratedDocuments, below, draws_at, key
from data.packing.document_order import shuffled

_KEYS, _VALUES, _QUERIES, _LEAD = 0x4B45_5953, 0x5641_4C55, 0x5155_4552, 0x4C45_4144


@dataclass(kw_only=True)
class KeyValue(GeneratedDocuments):
    """Pairs of a key and a value, then queries; only the values of the queries count as targets."""

    task: Literal["key_value"]
    # Tokens of a key.
    key_tokens: Annotated[int, Ge(1), Le(16)] = 2
    # Tokens of a value.
    value_tokens: Annotated[int, Ge(1), Le(1_024)] = 2
    # Queries at the end of a document: keys of pairs before them, each with its value.
    queries: Annotated[int, Ge(1), Le(2**20)] = 8

    def problems(self) -> list[str]:
        """Returns every broken rule between these fields, one line each."""
        found = super().problems()
        pair = self.key_tokens + self.value_tokens
        found += self.room_problems(2 * self.queries * pair, "the queries and as many pairs")
        most = self.max_length // pair - self.queries
        if most > self.num_keys:
            found.append(
                f"ids={self.ids}: half of them make {self.num_keys} keys of {self.key_tokens} tokens, a document of"
                f" max_length={self.max_length} has up to {most}; give more ids, or more key_tokens"
            )
        return found

    @property
    def num_keys(self) -> int:
        """Number of different keys, as far as they are used."""
        return int(min((self.ids // 2) ** self.key_tokens, 1 << 48))


@dataclass(frozen=True)
class KeyValueDocument:
    """One document: `lead` symbols, pairs, queries. An entry is a pair or a query."""

    settings: KeyValue
    number: int
    length: int

    @property
    def lead(self) -> int:
        """Symbols before the first pair."""
        return self.length % self._each

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return self.length // self._each - self.settings.queries

    @property
    def _each(self) -> int:
        return self.settings.key_tokens + self.settings.value_tokens

    def symbols(self, start: int, stop: int) -> np.ndarray:
        """Returns the symbols [start, stop): makes the entries that hold them."""
        places = np.arange(start, min(stop, self.lead))
        lead = self._values(key(self.settings.seed, self.number, _LEAD), places)
        first, last = (max(0, place - self.lead) for place in (start, stop))
        entries = np.arange(first // self._each, -(-last // self._each))
        made = self._entries(np.where(entries < self.pairs, entries, self._asked(entries)))
        skipped = first // self._each * self._each
        return np.concatenate([lead, made.reshape(-1)[first - skipped : last - skipped]])

    def labelled(self, start: int, stop: int) -> np.ndarray:
        """Returns which symbols belong to the value of a query."""
        entry, place = np.divmod(np.arange(start, stop) - self.lead, self._each)
        return np.asarray((entry >= self.pairs) & (place >= self.settings.key_tokens))

    def count_labelled(self, start: int, stop: int) -> int:
        """Returns how many of the symbols [start, stop) count."""
        return self._count_before(stop) - self._count_before(start)

    def _count_before(self, place: int) -> int:
        after_pairs = max(0, place - self.lead - self.pairs * self._each)
        entries, rest = divmod(after_pairs, self._each)
        return entries * self.settings.value_tokens + max(0, rest - self.settings.key_tokens)

    def _values(self, sequence: int, places: np.ndarray) -> np.ndarray:
        """Returns the symbols of values at these places of a sequence of draws."""
        half = self.settings.ids // 2
        return half + below(draws_at(sequence, places), half)

    def _entries(self, pairs: np.ndarray) -> np.ndarray:
        """Returns key and value (len(pairs), tokens of both) of each of these pairs."""
        settings, half = self.settings, self.settings.ids // 2
        seed, number = settings.seed, self.number
        keys = shuffled(pairs, settings.num_keys, seed=seed, source=number, epoch=_KEYS)
        digits = []
        for _ in range(settings.key_tokens):
            keys, digit = np.divmod(keys, half)
            digits.append(digit)
        places = pairs[:, None] * settings.value_tokens + np.arange(settings.value_tokens)
        values = self._values(key(seed, number, _VALUES), places)
        return np.concatenate([np.stack(digits, axis=1), values], axis=1)

    def _asked(self, entries: np.ndarray) -> np.ndarray:
        """Returns the pair that each query asks for; arbitrary for entries that are pairs."""
        queries = np.maximum(entries - self.pairs, 0)
        return shuffled(
            queries, self.pairs, seed=self.settings.seed, source=self.number, epoch=_QUERIES
        )


class KeyValueTask:
    """The documents of the settings, by number."""

    def __init__(self, settings: KeyValue, num_special: int) -> None:
        self._settings, self._num_special = settings, num_special

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the symbols of the documents with these numbers."""
        return self._settings.room(numbers, self._num_special)

    def document(self, number: int) -> KeyValueDocument:
        """Returns the document of this number."""
        length = self._settings.room_of_one(number, self._num_special)
        return KeyValueDocument(self._settings, number, length)
