"""What every rank has to do, and which keys it receives, added up for tests and benchmarks."""

from collections.abc import Mapping, Sequence

import numpy as np

from model.reach import Reach
from parallel.pipeline.placement import Placement
from parallel.sequence.chunk_costs import StreamCosts
from parallel.sequence.chunks import Dealing


def attention_work(
    dealing: Dealing, lengths: Sequence[int], layers: Mapping[Reach, int]
) -> tuple[int, ...]:
    """Visible query-key pairs of each sequence rank, summed over layers (`layers`: how many of each reach)."""
    held = np.array(dealing.chunks)
    costs = StreamCosts(lengths, layers).cut(held.size)
    return tuple(costs.work[held].sum(axis=1).tolist())


def keys_received(
    dealing: Dealing, lengths: Sequence[int], layers: Mapping[Reach, int]
) -> tuple[int, ...]:
    """Key tokens that each sequence rank receives in one forward, summed over layers."""
    held = np.array(dealing.chunks)
    return tuple(StreamCosts(lengths, layers).cut(held.size).keys(held).tolist())


def stage_work(
    sizes: Sequence[int], costs: Sequence[int], head: int, placement: Placement
) -> list[int]:
    """The work of every pipeline rank when stages hold `sizes` layers in order."""
    work = [0] * placement.ranks
    start = 0
    for stage, size in enumerate(sizes):
        work[placement.rank_of(stage)] += sum(costs[start : start + size])
        start += size
    work[placement.rank_of(len(sizes) - 1)] += head
    return work
