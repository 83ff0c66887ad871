"""Which tensors of theirs are which of ours, and what lies between.

Most are the same numbers under another name. Two things differ. Half-split rotation turns rows (i, i + K / 2) of a
head, ours turns (2i, 2i + 1): everything that makes queries and keys (`turned` in the table of parameters) has its
rows in another order,

    K = 8     ours  0 1 2 3 4 5 6 7      is theirs  0 4 1 5 2 6 3 7

and a family may keep several of our tensors in one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

# Tables of families are read by `--check`, which imports no torch.
if TYPE_CHECKING:
    from torch import Tensor

Convert = Callable[["Sequence[Tensor]"], "list[Tensor]"]


@dataclass(frozen=True)
class Link:
    """Tensors of theirs that hold exactly the numbers of these of ours. Both conversions work on meta tensors."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    to_ours: Convert
    to_theirs: Convert


def same(theirs: str, ours: str) -> Link:
    """The same tensor under another name."""
    return Link((theirs,), (ours,), list, list)


def half_split(theirs: str, ours: str, head_dim: int) -> Link:
    """Rows of half-split heads; any number of heads, matrices and vectors alike."""
    return Link(
        (theirs,),
        (ours,),
        lambda tensors: [interleave(tensors[0], head_dim)],
        lambda tensors: [split_halves(tensors[0], head_dim)],
    )


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of heads from (i, i + K / 2) pairs to (2i, 2i + 1) pairs."""
    heads = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def split_halves(rows: Tensor, head_dim: int) -> Tensor:
    """The inverse of `interleave`."""
    heads = rows.view(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)
