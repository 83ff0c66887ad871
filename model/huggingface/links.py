"""Links between their tensors and ours, and the conversions.

Most tensors differ only in name. There are two exceptions. Half-split rotation pairs rows (i, i + K / 2) of a head,
ours pairs (2i, 2i + 1): the parameters that produce queries and keys (`turned` in the table of parameters) have their
rows in another order,

    K = 8     ours  0 1 2 3 4 5 6 7      is theirs  0 4 1 5 2 6 3 7

and a family may store several of our tensors in one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

# `--check` reads the tables of families without importing torch.
if TYPE_CHECKING:
    from torch import Tensor

Convert = Callable[["Sequence[Tensor]"], "list[Tensor]"]


@dataclass(frozen=True)
class Link:
    """Tensors of theirs and of ours with the same elements. Both conversions work on meta tensors."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    to_ours: Convert
    to_theirs: Convert


def same(theirs: str, ours: str) -> Link:
    """The same tensor under another name."""
    return Link((theirs,), (ours,), list, list)


def half_split(theirs: str, ours: str, head_dim: int) -> Link:
    """A matrix or vector whose rows are half-split heads, any number of them."""
    return Link(
        (theirs,),
        (ours,),
        lambda tensors: [interleave(tensors[0], head_dim)],
        lambda tensors: [split_halves(tensors[0], head_dim)],
    )


def interleave(rows: Tensor, head_dim: int) -> Tensor:
    """Reorders the rows of heads from (i, i + K / 2) pairs to (2i, 2i + 1) pairs."""
    heads = rows.view(-1, 2, head_dim // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)


def split_halves(rows: Tensor, head_dim: int) -> Tensor:
    """The inverse of `interleave`."""
    heads = rows.view(-1, head_dim // 2, 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)
