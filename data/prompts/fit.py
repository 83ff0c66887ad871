"""How many items a prompt has: as many as its length has room for, found with few trials."""

from collections.abc import Callable
from dataclasses import dataclass

from data.prompts.writing import Written

# Items of the second trial, from which the tokens of an item are estimated, and the largest growth between two trials.
_SECOND, _GROWTH = 17, 16
# A smaller part of the room than one of these may be left to the filler.
_PARTS = 512


@dataclass(frozen=True)
class Sized:
    """A prompt as text, with its number of items and its tokens."""

    size: int
    tokens: int
    written: Written


def most_items(measure: Callable[[int], Sized], smallest: Sized, room: int) -> Sized:
    """Returns a prompt with as many items as fit into `room` tokens, less a mean item or a 512th of the room.

    measure: makes the prompt with a number of items; its tokens grow with it, up to where the task has no more items.
    smallest: the one with a single item, which must fit.
    """
    fits = smallest
    over: Sized | None = None
    halve = False
    while over is None or over.size - fits.size > 1:
        found = measure(_next(smallest, fits, over, room=room, halve=halve))
        before = None if over is None else over.size - fits.size
        if found.tokens > room:
            over = found
        elif found.tokens <= fits.tokens and over is None:
            return fits
        else:
            fits = found
        left, grown = room - fits.tokens, fits.tokens - smallest.tokens
        if left * _PARTS < room or left * (fits.size - 1) < grown:
            return fits
        halve = not halve and before is not None and 2 * _width(fits, over) > before
    return fits


def _width(fits: Sized, over: Sized | None) -> int:
    assert over is not None
    return over.size - fits.size


def _next(smallest: Sized, fits: Sized, over: Sized | None, *, room: int, halve: bool) -> int:
    """Returns the number of items to try next; halve: whether to take the middle instead of an estimate."""
    if over is None:
        if fits.size == 1:
            return _SECOND
        grown = max(1, fits.tokens - smallest.tokens)
        more = -(-(room - fits.tokens) * (fits.size - 1) // grown)
        return fits.size + min(max(1, more), fits.size * _GROWTH)
    if halve:
        return (fits.size + over.size) // 2
    share = (over.size - fits.size) * (room - fits.tokens) // (over.tokens - fits.tokens)
    return min(max(fits.size + share, fits.size + 1), over.size - 1)
