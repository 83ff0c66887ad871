"""Random choices of one prompt, in integers alone: the same on every rank and platform."""

from collections.abc import Sequence
from typing import TypeVar

from data.generated.documents import one_below
from data.packing.document_order import mix_integers

One = TypeVar("One")
_DIGITS = "0123456789"


class Draws:
    """A sequence of draws with a key. Two objects with the same key give the same choices."""

    def __init__(self, key: int) -> None:
        self._key, self._place = key, 0

    def below(self, limit: int) -> int:
        """Returns a number in [0, limit); 1 <= limit <= 2**32."""
        self._place += 1
        return one_below(mix_integers(self._key, self._place), limit)

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
        for place in range(count):  # the first places of a Fisher-Yates shuffle
            other = place + self.below(len(items) - place)
            chosen.append(items[moved.get(other, other)])
            moved[other] = moved.get(place, place)
        return chosen

    def shuffled(self, items: Sequence[One]) -> list[One]:
        """Returns all items in random order."""
        return self.sample(items, len(items))

    def digits(self, count: int) -> str:
        """Returns a number of `count` digits that does not begin with 0."""
        first = _DIGITS[1 + self.below(9)]
        return first + "".join(self.pick(_DIGITS) for _ in range(count - 1))

    def part(self) -> float:
        """Returns a number in [0, 1)."""
        return self.below(1 << 32) / (1 << 32)
