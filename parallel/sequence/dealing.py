"""Assigns equal chunks of a stream to the sequence ranks; `deal` is the entry point for all layouts.

A stream of T tokens is cut into chunks of equal length, and every rank holds the same number of them, so token
counts are equal whatever the documents are. The attention work differs: a token late in a long document sees many
more keys than a token early in a short one.

    contiguous   rank 0 | rank 1 | rank 2 | rank 3                 one chunk a rank; late ranks work more
    zigzag       0 | 1 | 2 | 3 | 3 | 2 | 1 | 0                     two chunks; equal work for one long document
    balanced     computed from the documents of each stream        see balance.py

Pure integers: every rank computes the same dealing from the document lengths, without communication.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from model.reach import Reach
from parallel.sequence.balance import deal_balanced
from parallel.sequence.chunks import Dealing


def deal_contiguous(num_tokens: int, size: int) -> Dealing:
    """One chunk a rank, in order."""
    return Dealing(num_tokens // size, tuple((rank,) for rank in range(size)))


def deal_zigzag(num_tokens: int, size: int) -> Dealing:
    """Two chunks a rank: one from the front and its mirror image from the back."""
    return Dealing(
        num_tokens // (2 * size), tuple((rank, 2 * size - 1 - rank) for rank in range(size))
    )


@dataclass(frozen=True)
class Layout:
    """chunks: each rank's tokens must be divisible by it. deal: maps document lengths, number of ranks and number of
    layers of each reach to a dealing."""

    chunks: int
    deal: Callable[[Sequence[int], int, Mapping[Reach, int]], Dealing]


# By the name in parallel.sequence_layout.
DEALINGS: Mapping[str, Layout] = MappingProxyType(
    {
        "contiguous": Layout(1, lambda lengths, size, _: deal_contiguous(sum(lengths), size)),
        "zigzag": Layout(2, lambda lengths, size, _: deal_zigzag(sum(lengths), size)),
        "balanced": Layout(1, deal_balanced),
    }
)


def deal(layout: str, lengths: Sequence[int], size: int, layers: Mapping[Reach, int]) -> Dealing:
    """Returns the dealing of a stream with documents of these lengths to `size` ranks.

    layout: a key of DEALINGS. layers: number of layers of each reach in the whole model. All stages of a pipeline
    hold the same tokens, so they must be given the same numbers.

    Raises:
        ValueError: the stream has no such dealing (see `dealing_problem`).
    """
    problem = dealing_problem(layout, sum(lengths), size)
    if problem:
        raise ValueError(problem)
    if size == 1:
        return deal_contiguous(sum(lengths), 1)
    return DEALINGS[layout].deal(lengths, size, layers)


def stream_multiple(layout: str, size: int) -> int:
    """Returns the number of tokens of which a stream must be a multiple to be dealt to `size` ranks."""
    return DEALINGS[layout].chunks * size if size > 1 else 1


def dealing_problem(layout: str, num_tokens: int, size: int) -> str | None:
    """Returns why streams of `num_tokens` cannot be dealt to `size` ranks in equal parts, or None if they can."""
    step = stream_multiple(layout, size)
    if num_tokens > 0 and num_tokens % step == 0:
        return None
    below = num_tokens // step * step
    use = f"{below} or {below + step}" if below else str(step)
    chunks = step // size
    rule = f"{chunks} x sequence = {step}" if chunks > 1 else f"sequence = {step}"
    return (
        f"sequence_layout={layout}: a stream of {num_tokens} tokens must be a multiple of {rule}; "
        f"use {use}"
    )
