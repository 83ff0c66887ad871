"""Finds the known name that a mistyped name probably means."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.5) -> str:
    """Returns the name in `known` most similar to `name`; "" if none reaches `likeness` (0: any, 1: the same)."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=likeness)), "")


def did_you_mean(name: str, known: Iterable[str], *, likeness: float = 0.5) -> str:
    """Returns the end of an error message with the nearest known name; "" if none is near."""
    found = nearest(name, known, likeness=likeness)
    return f"; did you mean {found}?" if found else ""
