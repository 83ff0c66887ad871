"""Random choices of one prompt, in integers alone: the same on every rank and platform."""

from collections.abc import Sequence
from string import ascii_lowercase, hexdigits
from typing import TypeVar
from uuid import UUID

import numpy as np

from data.generated.documents import one_below
from data.packing.document_order import mix, mix_integers, shuffled

One = TypeVar("One")
# Digits of one draw.
_DIGITS = 9
# Fewer draws than these take less time one by one.
_FEW = 32


class Draws:
    """A sequence of draws with a key. Two objects with the same key give the same choices."""

    def __init__(self, key: int) -> None:
        self._key, self._place = key, 0

    def below(self, limit: int) -> int:
        """Returns a number in [0, limit); 1 <= limit <= 2**32."""
        self._place += 1
        return one_below(mix_integers(self._key, self._place), limit)

    def each_below(self, limits: Sequence[int] | np.ndarray) -> list[int]:
        """Returns what `below` gives for each of these limits, one after the other; many take less time together."""
        if len(limits) < _FEW:
            return [self.below(int(limit)) for limit in limits]
        first = self._place + 1
        self._place += len(limits)
        places = np.arange(first, first + len(limits), dtype=np.uint64)
        draws = mix(np.uint64(mix_integers(self._key)) ^ places) >> np.uint64(32)
        numbers = draws * np.asarray(limits).astype(np.uint64) >> np.uint64(32)
        return [int(number) for number in numbers]

    def pick(self, items: Sequence[One]) -> One:
        """Returns one of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[One], count: int) -> list[One]:
        """Returns `count` different items in random order.

        Raises:
            ValueError: there are fewer items.
        """
        if count > len(items):
            raise ValueError(f"{count} different items were asked for, there are {len(items)}")
        moved: dict[int, int] = {}
        chosen = []
        steps = self.each_below(len(items) - np.arange(count))
        for place, step in enumerate(steps):  # the first places of a Fisher-Yates shuffle
            other = place + step
            chosen.append(items[moved.get(other, other)])
            moved[other] = moved.get(place, place)
        return chosen

    def shuffled(self, items: Sequence[One]) -> list[One]:
        """Returns all items in random order."""
        return self.sample(items, len(items))

    def different(self, count: int, limit: int) -> list[int]:
        """Returns `count` different numbers in [0, limit); those of a smaller count are the first of them."""
        seed = mix_integers(self._key, self.below(1 << 32))
        numbers = shuffled(np.arange(count), limit, seed=seed, source=0, epoch=0)
        return [int(number) for number in numbers]

    def hexadecimal(self, count: int) -> str:
        """Returns `count` hexadecimal digits."""
        return "".join(hexdigits[place] for place in self.each_below([16] * count))

    def digits(self, count: int) -> str:
        """Returns a number of `count` digits that does not begin with 0."""
        first = min(count, _DIGITS)
        drawn = str(10 ** (first - 1) + self.below(9 * 10 ** (first - 1)))
        for start in range(first, count, _DIGITS):
            more = min(count - start, _DIGITS)
            drawn += str(self.below(10**more)).zfill(more)
        return drawn

    def letters(self, count: int) -> str:
        """Returns a word of `count` random small letters."""
        return "".join(ascii_lowercase[place] for place in self.each_below([26] * count))

    def uuid(self) -> str:
        """Returns a random UUID (RFC 9562, version 4)."""
        words = self.each_below([1 << 32] * 4)
        return str(UUID(int=sum(word << 32 * place for place, word in enumerate(words)), version=4))

    def depths_from(self, first: float, count: int) -> list[float]:
        """Returns `count` depths in order: `first`, and others at random between it and 1."""
        return [first, *sorted(first + (1 - first) * self.part() for _ in range(count - 1))]

    def part(self) -> float:
        """Returns a number in [0, 1)."""
        return self.below(1 << 32) / (1 << 32)
