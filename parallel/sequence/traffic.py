"""How many bytes of keys, values and their gradients this rank received, counted when they have arrived."""

from collections import Counter
from typing import Literal

Kind = Literal["full", "window"]
Direction = Literal["forward", "backward"]


class TrafficMeter:
    """Bytes received since the last `reset`, by kind of layer and direction. Host integers only."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[Kind, Direction]] = Counter()

    def add(self, kind: Kind, direction: Direction, num_bytes: int) -> None:
        """Count a message that has arrived."""
        self._bytes[kind, direction] += num_bytes

    @property
    def bytes(self) -> dict[tuple[Kind, Direction], int]:
        """All four counts."""
        kinds: tuple[Kind, ...] = ("full", "window")
        directions: tuple[Direction, ...] = ("forward", "backward")
        return {(k, d): self._bytes[k, d] for k in kinds for d in directions}

    @property
    def total(self) -> int:
        """Bytes of all kinds and both directions."""
        return sum(self._bytes.values())

    def reset(self) -> None:
        """Start again at 0, for the next step."""
        self._bytes.clear()
