"""The known name that a mistyped one was probably meant to be."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.5) -> str:
    """The name in `known` that is most like `name`; "" if none is alike by `likeness` (0: any, 1: the same)."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=likeness)), "")


def did_you_mean(name: str, known: Iterable[str], *, likeness: float = 0.5) -> str:
    """The end of an error message that names the nearest known name; "" if none is near."""
    found = nearest(name, known, likeness=likeness)
    return f"; did you mean {found}?" if found else ""
