"""Counts the bytes of keys, values and their gradients that this rank has received."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Direction = Literal["forward", "backward"]


class TrafficMeter:
    """Bytes received since the last `reset`, by kind of layer and direction. Host integers only."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[str, Direction]] = Counter()

    def add(self, kind: str, direction: Direction, num_bytes: int) -> None:
        """Counts a received message for a layer of this kind."""
        self._bytes[kind, direction] += num_bytes

    @property
    def bytes(self) -> Counter[tuple[str, Direction]]:
        """All counts, by (kind, direction); 0 for a kind that received nothing."""
        return Counter(self._bytes)

    def of(self, kind: str) -> int:
        """Bytes of one kind, both directions."""
        return self._bytes[kind, "forward"] + self._bytes[kind, "backward"]

    @property
    def total(self) -> int:
        """Bytes of all kinds and both directions."""
        return sum(self._bytes.values())

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """What is received within it does not count."""
        kept = Counter(self._bytes)
        try:
            yield
        finally:
            self._bytes = kept

    def reset(self) -> None:
        """Sets all counts to 0, for the next step."""
        self._bytes.clear()
