"""The layout `balanced`: assigns the chunks of one stream to ranks so that attention work is equal.

    documents   [ a                                    ][ b ][ c ][ d  ][ e          ]
    chunks      | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10| 11| 12| 13| 14| 15|       work: pairs seen
    dealt       | 0 | 3 | 2 | 0 | 1 | 3 | 2 | 1 | 0 | 1 |  0| 3 | 3 | 2 | 2 | 1 |       4 ranks, 4 chunks each

Every rank gets the same number of equal chunks, so token counts are equal. Smaller chunks balance the work better,
but each chunk needs the keys before it (window - 1 for a windowed layer) from another rank, unless the previous
chunk is on the same rank. Hence:

1. the fewest chunks a rank that bring the busiest rank within GOAL of the mean: heaviest chunk first to the least
   loaded rank, or to a neighbour's rank where that keeps the goal; then swaps that unload the busiest rank;
2. swaps that put neighbouring chunks on one rank and keep the goal, while they reduce the keys received;
3. if no number of chunks reached the goal: an exhaustive search where the chunks are few, else the best found.

Pure integers, no clock: every rank computes the same dealing from the document lengths, without communication.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from model.reach import Reach
from parallel.sequence.chunk_costs import ChunkCosts, Integers, StreamCosts
from parallel.sequence.chunk_search import busiest, join, least_busiest, level, search
from parallel.sequence.chunks import Dealing

GOAL = Fraction(105, 100)
"""Busiest rank's work over the mean at which the search stops."""
MAX_CHUNKS = 64
"""Chunks a rank, at most."""
MIN_CHUNK_TOKENS = 128
"""Kernels are slow on shorter chunks; up to four chunks a rank are tried whatever their length."""
_EXHAUSTIVE_CHUNKS = 15
"""With at most this many chunks in the stream, all dealings may be searched."""
_CLOSER_GOAL = Fraction(101, 100)
"""Used in place of GOAL where it costs at most a tenth more keys."""


def chunk_counts(num_tokens: int, size: int) -> tuple[int, ...]:
    """Returns the numbers of chunks a rank that `deal_balanced` may use, ascending: divisors of a rank's tokens."""
    local = num_tokens // size
    shortest = min(MIN_CHUNK_TOKENS, max(1, local // 4))
    return tuple(
        count
        for count in range(1, min(MAX_CHUNKS, local) + 1)
        if local % count == 0 and local // count >= shortest
    )


def deal_balanced(lengths: Sequence[int], size: int, layers: Mapping[Reach, int]) -> Dealing:
    """Returns a dealing whose busiest rank has at most GOAL times the mean work, if one is found.

    Otherwise the dealing with the least work of the busiest rank; among equals, the one with fewest keys received.
    layers: number of layers of each reach. Ranks are numbered by their first chunk.
    """
    stream = StreamCosts(lengths, layers)
    assert stream.num_tokens % size == 0, "check dealing_problem first"
    total = int(stream.cut(size).work.sum())
    goal, closer_goal = int(GOAL * total / size), int(_CLOSER_GOAL * total / size)
    for count in chunk_counts(stream.num_tokens, size):
        costs = stream.cut(size * count)
        held = _within(costs, size, goal)
        if held is not None:
            closer = _within(costs, size, closer_goal)
            if closer is not None and 10 * costs.keys(closer).sum() <= 11 * costs.keys(held).sum():
                held = closer
            return _as_dealing(costs, held)
    return _out_of_reach(stream, size, goal)


def _within(costs: ChunkCosts, size: int, goal: int) -> Integers | None:
    """Returns a dealing whose busiest rank is within the goal, after `join`; None if none was found."""
    if least_busiest(costs, costs.num_chunks // size) > goal:
        return None
    held = level(costs, size, goal)
    return join(costs, held, goal) if busiest(costs, held) <= goal else None


def _out_of_reach(stream: StreamCosts, size: int, goal: int) -> Dealing:
    """Returns the best dealing where swaps did not reach the goal; an exhaustive search may still reach it."""
    found: list[tuple[int, ChunkCosts, Integers]] = []
    for count in chunk_counts(stream.num_tokens, size):
        costs = stream.cut(size * count)
        held = level(costs, size, goal)
        if costs.num_chunks <= _EXHAUSTIVE_CHUNKS:
            held = search(costs, held, goal)
        found.append((busiest(costs, held), costs, held))
        if found[-1][0] <= goal:
            break
    least = max(goal, min(work for work, _, _ in found))
    best = [(costs, join(costs, held, least)) for work, costs, held in found if work <= least]
    return _as_dealing(*min(best, key=lambda pair: int(pair[0].keys(pair[1]).sum())))


def _as_dealing(costs: ChunkCosts, held: Integers) -> Dealing:
    chunks = sorted(tuple(sorted(row)) for row in held.tolist())
    return Dealing(costs.chunk_tokens, tuple(chunks))
