"""Assigns chunks to ranks: first equal work, then neighbouring chunks on one rank.

`held` is always an array (ranks, chunks a rank) of chunk numbers. Two heuristics that take milliseconds, and an
exact search:

    level    heaviest chunk first to the least loaded rank that has room, then swaps with the busiest rank
    join     swaps that put neighbours on one rank, since a chunk after its neighbour receives no keys
    search   branch and bound over all dealings; for few chunks
"""

import heapq
from itertools import combinations

import numpy as np

from parallel.sequence.chunk_costs import ChunkCosts, Integers

_PARTNERS = 16
"""Lightest ranks with which the busiest one tries to swap."""
_SWAPS = 1 << 14
"""Swaps that `join` tries at most, so that thousands of chunks take milliseconds."""


def busiest(costs: ChunkCosts, held: Integers) -> int:
    """Work of the busiest rank."""
    return int(costs.work[held].sum(axis=1).max())


def least_busiest(costs: ChunkCosts, count: int) -> int:
    """Returns a lower bound of `busiest`: some rank holds the heaviest chunk and count - 1 others."""
    ascending = np.sort(costs.work)
    return int(ascending[-1] + ascending[: count - 1].sum())


def level(costs: ChunkCosts, size: int, goal: int) -> Integers:
    """Returns a dealing with nearly equal work, neighbours on one rank if the goal allows, else the better of both."""
    together = _unload(costs, _heaviest_first(costs, size, goal), goal)
    if busiest(costs, together) <= goal:
        return together
    apart = _unload(costs, _heaviest_first(costs, size, 0), goal)
    return min(together, apart, key=lambda held: busiest(costs, held))


def _heaviest_first(costs: ChunkCosts, size: int, goal: int) -> Integers:
    """Assigns the heaviest chunk first, to the rank of a neighbour or else to the least loaded rank that has room.

    The neighbour's rank must stay within the goal with this chunk and the lightest chunks in its places left.
    """
    work = costs.work.tolist()
    count = len(work) // size
    lightest = min(work)
    owner = [-1] * (len(work) + 1)  # the last entry, also index -1: no neighbour
    held: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    waiting = [(0, rank) for rank in range(size)]
    for chunk in sorted(range(len(work)), key=lambda chunk: -work[chunk]):
        near = [
            (load[rank], rank)
            for rank in (owner[chunk - 1], owner[chunk + 1])
            if rank >= 0
            and len(held[rank]) < count
            and load[rank] + work[chunk] + (count - len(held[rank]) - 1) * lightest <= goal
        ]
        # Entries of ranks that have taken a neighbour since are stale.
        while waiting[0][0] != load[waiting[0][1]] or len(held[waiting[0][1]]) == count:
            heapq.heappop(waiting)
        rank = min(near, default=waiting[0])[1]
        owner[chunk] = rank
        held[rank].append(chunk)
        load[rank] += work[chunk]
        heapq.heappush(waiting, (load[rank], rank))
    return np.array(held)


def _unload(costs: ChunkCosts, held: Integers, goal: int) -> Integers:
    """Swaps chunks of the busiest rank for lighter ones until the goal is reached or no swap helps.

    Each swap is the one, among the _PARTNERS lightest ranks, that leaves the busier of the two ranks least loaded.
    """
    held = held.copy()
    work = costs.work[held]
    load = work.sum(axis=1)
    while load.max() > goal:
        rank = int(load.argmax())
        others = np.argsort(load, kind="stable")[:_PARTNERS]
        given = work[rank][:, None, None] - work[others]
        busier = np.maximum(load[rank] - given, load[others][:, None] + given)
        best = int(busier.argmin())
        if busier.flat[best] >= load[rank]:
            break
        mine, partner, theirs = np.unravel_index(best, busier.shape)
        other = others[partner]
        held[rank, mine], held[other, theirs] = held[other, theirs], held[rank, mine]
        work[[rank, other]] = costs.work[held[[rank, other]]]
        load = work.sum(axis=1)
    return held


def join(costs: ChunkCosts, held: Integers, goal: int) -> Integers:
    """Swaps chunks to their neighbours' ranks while that reduces the keys received and no rank exceeds the goal.

    Each round makes the best swaps, at most one for every rank; a round that saves less than 1 % is the last.
    """
    held = np.sort(held, axis=1)
    tried = 0
    while tried < _SWAPS:
        coming, going = _swaps_of_neighbours(costs, held, goal)
        tried += len(coming)
        owner, gain = _owners(held), _fewer_keys(costs, held, coming, going)
        won, touched = 0, set[int]()
        for swap in np.argsort(-gain, kind="stable")[: 4 * len(held)].tolist():
            chunks = [coming[swap], going[swap]]
            pair = set(owner[chunks].tolist())
            if gain[swap] > 0 and not pair & touched:
                touched |= pair
                owner[chunks] = owner[chunks[::-1]]
                won += int(gain[swap])
        held = np.argsort(owner, kind="stable").reshape(held.shape)
        if won * 100 <= costs.keys(held).sum():
            break
    return held


def _owners(held: Integers) -> Integers:
    owner = np.empty(held.size, dtype=np.int64)
    owner[held] = np.arange(len(held))[:, None]
    return owner


def _swaps_of_neighbours(costs: ChunkCosts, held: Integers, goal: int) -> tuple[Integers, Integers]:
    """Returns pairs of chunks (coming, going) whose swap puts `coming` on a neighbour's rank, both within the goal.

    If there are too many: those around the chunks that need most keys.
    """
    owner, load = _owners(held), costs.work[held].sum(axis=1)
    later = np.flatnonzero(owner[1:] != owner[:-1]) + 1
    wanted = costs.between(np.full_like(later, -1), later)
    later = later[np.argsort(-wanted, kind="stable")[: _SWAPS // (8 * held.shape[1])]]
    # A chunk moves to the rank of the previous one, or the previous one moves to its rank.
    coming = np.concatenate([later, later - 1]).repeat(held.shape[1])
    going = held[owner[np.concatenate([later - 1, later])]].ravel()
    more = costs.work[coming] - costs.work[going]
    fits = (load[owner[going]] + more <= goal) & (load[owner[coming]] - more <= goal)
    return coming[fits], going[fits]


def _fewer_keys(costs: ChunkCosts, held: Integers, coming: Integers, going: Integers) -> Integers:
    """Returns how many keys fewer the two ranks receive after each swap.

    A rank's keys are a sum over consecutive chunks on that rank, so removing or inserting a chunk changes only the
    terms to its left and right.
    """
    size, num_chunks = len(held), costs.num_chunks
    ends = (np.full((size, 1), -1), held, np.full((size, 1), num_chunks))
    framed = np.concatenate(ends, axis=1)
    left, right = np.empty((2, num_chunks), dtype=np.int64)
    left[held], right[held] = framed[:, :-2], framed[:, 2:]
    owner = _owners(held)
    # place[rank, chunk]: the number of chunks up to `chunk` that the rank holds.
    place = np.cumsum(owner == np.arange(size)[:, None], axis=1)

    def detour(before: Integers, chunk: Integers, after: Integers) -> Integers:
        straight = costs.between(before, after)
        return costs.between(before, chunk) + costs.between(chunk, after) - straight

    def cost_of_entry(chunk: Integers, instead: Integers) -> Integers:
        rank = owner[instead]
        at = place[rank, chunk]
        before, after = framed[rank, at], framed[rank, at + 1]
        before = np.where(before == instead, left[instead], before)
        after = np.where(after == instead, right[instead], after)
        return detour(before, chunk, after)

    saved = detour(left, np.arange(num_chunks), right)
    entries = cost_of_entry(coming, going) + cost_of_entry(going, coming)
    return saved[coming] + saved[going] - entries


def search(costs: ChunkCosts, held: Integers, goal: int) -> Integers:
    """Returns the dealing with the least work of the busiest rank, or the first one found within the goal.

    held: the best dealing so far. Ranks are filled one after the other; each takes the heaviest chunk left, so that
    no dealing is visited twice. A branch is cut where the chunks left cannot fit below the best so far.
    """
    size, count = held.shape
    best = busiest(costs, held)
    enough = max(goal, least_busiest(costs, count))

    def fill(left: Integers, filled: list[Integers]) -> None:
        nonlocal best, held
        ranks = size - len(filled)
        if ranks == 0:
            held = np.array(filled)
            best = busiest(costs, held)
            return
        chosen = np.array(list(combinations(range(1, len(left)), count - 1)), dtype=np.int64)
        choices = np.concatenate([np.zeros((len(chosen), 1), dtype=np.int64), chosen], axis=1)
        load = costs.work[left[choices]].sum(axis=1)
        total = costs.work[left].sum()
        for choice in np.argsort(np.abs(load * ranks - total), kind="stable").tolist():
            fits = load[choice] < best and total - load[choice] <= (ranks - 1) * (best - 1)
            if best > enough and fits:
                fill(np.delete(left, choices[choice]), [*filled, left[choices[choice]]])

    fill(np.argsort(-costs.work, kind="stable"), [])
    return held
