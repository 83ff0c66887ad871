"""Which tokens of a stream each sequence rank holds: equal chunks, dealt to the ranks.

A stream of T tokens is cut into chunks of equal length, and every rank holds the same number of them, so
token counts are equal whatever the documents are. What differs is the attention work: a token late in a
long document sees much more than a token early in a short one.

    contiguous   rank 0 | rank 1 | rank 2 | rank 3                 one chunk a rank; late ranks work more
    zigzag       0 | 1 | 2 | 3 | 3 | 2 | 1 | 0                     two chunks; level for one long document
    balanced     dealt from the documents of this very stream      see balance.py

Pure integers: every rank makes the same dealing from the document lengths, without talking.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
    """chunks: equal parts into which each rank's tokens must fall. deal: from document lengths, number of ranks and
    number of layers of each window to a dealing."""

    chunks: int
    deal: Callable[[Sequence[int], int, Mapping[int | None, int]], Dealing]


# By the name in parallel.sequence_layout.
DEALINGS: Mapping[str, Layout] = MappingProxyType(
    {
        "contiguous": Layout(1, lambda lengths, size, _: deal_contiguous(sum(lengths), size)),
        "zigzag": Layout(2, lambda lengths, size, _: deal_zigzag(sum(lengths), size)),
        "balanced": Layout(1, deal_balanced),
    }
)


def deal(
    layout: str, lengths: Sequence[int], size: int, windows: Mapping[int | None, int]
) -> Dealing:
    """The dealing of a stream of documents of these lengths to `size` ranks, by the layout's name.

    windows: number of layers of each window (None: full layers) in the whole model. All stages of a
    pipeline hold the same tokens, so they must be given the same windows.

    Raises:
        ValueError: the stream cannot be dealt so (see `dealing_problem`).
    """
    problem = dealing_problem(layout, sum(lengths), size)
    if problem:
        raise ValueError(problem)
    if size == 1:
        return deal_contiguous(sum(lengths), 1)
    return DEALINGS[layout].deal(lengths, size, windows)


def dealing_problem(layout: str, num_tokens: int, size: int) -> str | None:
    """Why streams of `num_tokens` cannot be dealt to `size` ranks in equal parts, or None if they can."""
    chunks = DEALINGS[layout].chunks if size > 1 else 1
    step = chunks * size
    if num_tokens > 0 and num_tokens % step == 0:
        return None
    below = num_tokens // step * step
    use = f"{below} or {below + step}" if below else str(step)
    rule = f"{chunks} x sequence = {step}" if chunks > 1 else f"sequence = {step}"
    return (
        f"sequence_layout={layout}: a stream of {num_tokens} tokens must be a multiple of {rule}; "
        f"use {use}"
    )
