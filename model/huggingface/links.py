"""Links between their tensors and ours, and the conversions.

Most tensors differ only in name. There are two exceptions. Half-split rotation pairs rows (i, i + K / 2) of a head,
ours pairs (2i, 2i + 1): the parameters that produce queries and keys (`turned` in the table of parameters) have their
rows in another order,

    K = 8     ours  0 1 2 3 4 5 6 7      is theirs  0 4 1 5 2 6 3 7

Where only the first r rows turn (ordinary partial rotation), these pair (i, i + r / 2), and the others stay in place:

    r = 4     ours  0 1 2 3 4 5 6 7      is theirs  0 2 1 3 4 5 6 7

And a family may store several of our tensors in one.
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


def half_split(theirs: str, ours: str, head_dim: int, width: int) -> Link:
    """A matrix or vector whose rows are half-split heads, any number of them; see `interleave`."""
    return Link(
        (theirs,),
        (ours,),
        lambda tensors: [interleave(tensors[0], head_dim, width)],
        lambda tensors: [split_halves(tensors[0], head_dim, width)],
    )


def interleave(rows: Tensor, head_dim: int, width: int) -> Tensor:
    """Reorders the first `width` rows of every head from (i, i + width / 2) pairs to (2i, 2i + 1) pairs."""
    return _reordered(rows, head_dim, width, (2, width // 2))


def split_halves(rows: Tensor, head_dim: int, width: int) -> Tensor:
    """The inverse of `interleave`."""
    return _reordered(rows, head_dim, width, (width // 2, 2))


def _reordered(rows: Tensor, head_dim: int, width: int, grid: tuple[int, int]) -> Tensor:
    """The first `width` rows of every head, read as this grid and transposed; the other rows as they are."""
    heads = rows.reshape(-1, head_dim, *rows.shape[1:]).clone()
    pairs = heads[:, :width].reshape(-1, *grid, *rows.shape[1:]).transpose(1, 2)
    heads[:, :width] = pairs.flatten(1, 2)
    return heads.view(rows.shape)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors below each other in one."""
    rows = sum(len(tensor) for tensor in tensors)
    whole, place = tensors[0].new_empty((rows, *tensors[0].shape[1:])), 0
    for tensor in tensors:
        whole[place : place + len(tensor)] = tensor
        place += len(tensor)
    return whole
