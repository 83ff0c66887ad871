"""How many bytes of keys, values and their gradients this rank received, counted when they have arrived."""

from collections import Counter
from typing import Literal

Direction = Literal["forward", "backward"]


class TrafficMeter:
    """Bytes received since the last `reset`, by kind of layer and direction. Host integers only."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[str, Direction]] = Counter()

    def add(self, kind: str, direction: Direction, num_bytes: int) -> None:
        """Count a message for a layer of this kind that has arrived."""
        self._bytes[kind, direction] += num_bytes

    @property
    def bytes(self) -> Counter[tuple[str, Direction]]:
        """Every count, by (kind, direction); 0 for a kind that received nothing."""
        return Counter(self._bytes)

    def of(self, kind: str) -> int:
        """Bytes of one kind, both directions."""
        return self._bytes[kind, "forward"] + self._bytes[kind, "backward"]

    @property
    def total(self) -> int:
        """Bytes of all kinds and both directions."""
        return sum(self._bytes.values())

    def reset(self) -> None:
        """Start again at 0, for the next step."""
        self._bytes.clear()
