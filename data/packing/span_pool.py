"""The packer's look-ahead: spans waiting to be placed, found by length or drawn by lottery.

Three indexes of the same spans, each operation O(log n) or a short memory move:
    slots   a dense list (the last span replaces a removed one); its order is saved
    tree    Fenwick tree of the lengths by slot: prefix sums for the length-weighted lottery
    keys    sorted (length, age): finds the largest span that fits, the oldest among equals
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from data.packing.spans import Span

_AGE_BITS = 48
_AGE_MASK = (1 << _AGE_BITS) - 1


class SpanPool:
    """At most `capacity` spans, each with a unique serial number (smaller is older)."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._slots: list[tuple[int, Span]] = []
        self._slot_of: dict[int, int] = {}
        self._tree = [0] * (capacity + 1)
        self._keys: list[int] = []
        self._top_bit = 1 << (capacity.bit_length() - 1)
        # Tokens of all spans.
        self.total = 0

    def __len__(self) -> int:
        return len(self._slots)

    def entries(self) -> list[tuple[int, Span]]:
        """(serial, span) in slot order; adding them to an empty pool in this order restores the pool."""
        return list(self._slots)

    def extend(self, entries: Iterable[tuple[int, Span]]) -> None:
        """Add several spans."""
        for serial, span in entries:
            self.add(serial, span)

    def add(self, serial: int, span: Span) -> None:
        """Add a span under an unused serial number."""
        slot = len(self._slots)
        assert slot < self._capacity, "the pool is full"
        self._slots.append((serial, span))
        self._slot_of[serial] = slot
        self._change(slot, span.length)
        insort(self._keys, span.length << _AGE_BITS | (_AGE_MASK - serial))

    def take_weighted(self, draw: int) -> tuple[int, Span]:
        """Remove the span that the 64-bit random number `draw` selects, with probability proportional to length."""
        remaining = draw * self.total >> 64
        slot, bit = 0, self._top_bit
        while bit:
            following = slot + bit
            if following <= self._capacity and self._tree[following] <= remaining:
                slot = following
                remaining -= self._tree[following]
            bit >>= 1
        return self._remove(self._slots[slot][0])

    def largest(self, limit: int) -> int:
        """Length of the longest span of at most `limit` tokens, 0 when there is none."""
        at = bisect_left(self._keys, (limit + 1) << _AGE_BITS) - 1
        return self._keys[at] >> _AGE_BITS if at >= 0 else 0

    def take_largest(self, limit: int) -> tuple[int, Span] | None:
        """Remove the longest span of at most `limit` tokens, the oldest among equals."""
        at = bisect_left(self._keys, (limit + 1) << _AGE_BITS) - 1
        return self._remove(_AGE_MASK - (self._keys[at] & _AGE_MASK)) if at >= 0 else None

    def take_smallest(self, minimum: int) -> tuple[int, Span] | None:
        """Remove the shortest span of at least `minimum` tokens, the oldest among equals."""
        at = bisect_left(self._keys, minimum << _AGE_BITS)
        return self.take_largest(self._keys[at] >> _AGE_BITS) if at < len(self._keys) else None

    def take_longest(self) -> tuple[int, Span]:
        """Remove the longest span, the oldest among equals."""
        return self._remove(_AGE_MASK - (self._keys[-1] & _AGE_MASK))

    def take_oldest(self) -> tuple[int, Span]:
        """Remove the span with the smallest serial number."""
        return self._remove(min(self._slot_of))

    def _remove(self, serial: int) -> tuple[int, Span]:
        slot = self._slot_of.pop(serial)
        entry = self._slots[slot]
        length = entry[1].length
        key = length << _AGE_BITS | (_AGE_MASK - serial)
        del self._keys[bisect_left(self._keys, key)]
        self._change(slot, -length)
        last = self._slots.pop()
        if last[0] != serial:
            self._slots[slot] = last
            self._slot_of[last[0]] = slot
            self._change(len(self._slots), -last[1].length)
            self._change(slot, last[1].length)
        return entry

    def _change(self, slot: int, length: int) -> None:
        self.total += length
        at = slot + 1
        while at <= self._capacity:
            self._tree[at] += length
            at += at & -at
