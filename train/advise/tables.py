"""What a question is made of: sentences and tables of text, for the terminal and for the page alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from train.advise.subject import Case


@dataclass(frozen=True)
class Table:
    """A table of text. notes: what its numbers mean, and their sources. long: the last column has long texts."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    long: bool = False


@dataclass(frozen=True)
class Question:
    """A question of the user. name: one word for it. answer: sentences about this model."""

    name: str
    asks: str
    answer: Sequence[str]
    tables: Sequence[Table]


def stages_in_words(case: Case) -> str:
    """Returns the stages that a case stands for: short to long."""
    first, last = case.stages[0], case.stages[-1]
    return first if first == last else f"{first} to {last}"


def base_in_words(base: float) -> str:
    """Returns a RoPE base: 10,000, 2.697e4, 1.28e8; at most four significant digits."""
    rounded = float(f"{base:.4g}")
    short = f"{rounded:.4g}".replace("e+0", "e").replace("e+", "e")
    return f"{rounded:,.0f}" if rounded < 1e6 and rounded == round(rounded) else short


def flops_in_words(count: float) -> str:
    """Returns a number of operations: 950, 290.3k, 6.582M, 50.42G; four significant digits."""
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit * 0.99995:
            return f"{count / limit:.4g}{prefix}"
    return f"{count:.4g}"
