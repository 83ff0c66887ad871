"""Chooses the number of layers of every pipeline stage.

The busiest rank limits the speed of a pipeline, so layers are cut into contiguous stages such that the busiest
rank has as little work as possible; among those splits, the one with the most even stages (least sum of squares),
because ranks with several stages also wait for uneven ones. (Allowing the busiest rank a little more work for more
even stages was tried in simulation: steps ended 0.1 % earlier in the mean.)

Work is counted in FLOPs at one sequence length: a layer costs its matrices plus its visible query-key pairs (a full
layer has more than a windowed or a chunked one), the head 2 D V per token, the embedding nothing.

The search is exact, by dynamic programming over the ranks. A rank takes `a` of the layers left for first stages and
`b` of those left for second stages, so a state is (layers taken for first stages, layers taken for second ones).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.config import ModelConfig
from model.flops import head_matmul_parameters, layer_matmul_parameters, score_pairs
from model.layer_pattern import expand_pattern, layer_kinds
from parallel.pipeline.placement import Placement

Table = npt.NDArray[Any]
# (value so far, load of the first stage, load of the second stage) -> value
Combine = Callable[[Table, Table, Table], Table]


def layer_costs(config: ModelConfig, sequence_length: int) -> list[int]:
    """Returns the FLOPs of one forward of every layer over one document of this length."""
    pair = 4 * config.num_heads * config.head_dim
    costs = {
        kind: 2 * layer_matmul_parameters(config, spec) * sequence_length
        + pair * score_pairs([sequence_length], spec.reach)
        for kind, spec in layer_kinds(config).items()
    }
    return [costs[spec.kind] for spec in expand_pattern(config)]


def head_cost(config: ModelConfig, sequence_length: int) -> int:
    """Returns the FLOPs of one forward of the head over `sequence_length` tokens."""
    return 2 * head_matmul_parameters(config) * sequence_length


def balanced_sizes(costs: Sequence[int], head: int, placement: Placement) -> list[int]:
    """Returns the number of layers of every stage, in order, such that the busiest rank has the least work.

    For one or two stages a rank. Every stage has at least one layer, but the last, with the head, may have none.

    Raises:
        ValueError: there are fewer layers than stages that need one.
    """
    num_layers, least_layers = len(costs), placement.num_stages - 1
    if num_layers < least_layers:
        raise ValueError(
            f"model.num_layers={num_layers}: {placement.num_stages} pipeline stages need at least "
            f"{least_layers} layers; use more layers or fewer parallel.pipeline ranks"
        )
    middles = [num_layers]
    if placement.num_stages > placement.ranks:
        middles = list(range(placement.ranks, num_layers - placement.ranks + 2))
        # The likely ones first: their result is a bound for the other searches.
        middles.sort(key=lambda middle: abs(2 * middle - num_layers))
    searches = [_Search(costs, head, placement, middle) for middle in middles]
    least = np.inf
    for search in searches:
        least = min(least, search.run(_largest_rank, bound=least)[0])
    # The same costs added up in another order differ in their last bits.
    bound = least * (1 + 1e-9)
    best: tuple[float, list[int]] = (np.inf, [])
    for search in searches:
        best = min(best, search.run(_squared_stages, bound=bound, limit=best[0]))
    return best[1]


def _largest_rank(so_far: Table, first: Table, second: Table) -> Table:
    largest: Table = np.maximum(so_far, first + second)
    return largest


def _squared_stages(so_far: Table, first: Table, second: Table) -> Table:
    squares: Table = so_far + first**2 + second**2
    return squares


class _Search:
    """Splits layers 0 to middle - 1 among the ranks' first stages in order, the rest among their second ones.

    Second stages take layers from `middle` on in order of rank or, in a V, backwards from the end.
    """

    def __init__(self, costs: Sequence[int], head: int, placement: Placement, middle: int) -> None:
        self.placement = placement
        self.head_rank = placement.rank_of(placement.num_stages - 1)
        self.has_second = placement.num_stages > placement.ranks
        second = list(costs[middle:])
        if placement.schedule == "zbv":
            second.reverse()
        # In units of the mean load: squares of FLOPs would lose digits.
        unit = (sum(costs) + head) / placement.ranks
        self.head = head / unit
        self.first = np.cumsum([0, *costs[:middle]]) / unit
        self.second = np.cumsum([0, *second]) / unit

    def run(
        self, combine: Combine, *, bound: float, limit: float = np.inf
    ) -> tuple[float, list[int]]:
        """Returns the least value of `combine` over all ranks with no load above `bound`, and its stage sizes.

        Returns infinity and no sizes if there is none, or none up to `limit`.
        """
        # value[i, j]: the least value if the ranks so far take i layers of the first part and j of the second.
        value = np.full((len(self.first), len(self.second)), np.inf)
        value[0, 0] = 0.0
        choices = []
        for rank in range(self.placement.ranks):
            value, choice = self._next(value, rank, combine, bound)
            value[value > limit] = np.inf
            if not np.isfinite(value).any():
                return np.inf, []
            choices.append(choice)
        if not np.isfinite(value[-1, -1]):
            return np.inf, []
        return float(value[-1, -1]), self._sizes(choices)

    def _next(self, value: Table, rank: int, combine: Combine, bound: float) -> tuple[Table, Table]:
        """Returns the values after one more rank, and how many layers of each part that rank takes."""
        best = np.full_like(value, np.inf)
        choice = np.zeros((*value.shape, 2), dtype=np.int64)
        needs_layer = 0 if rank == self.head_rank else 1
        rows, columns = value.shape
        first_sizes = range(1 if self.has_second else needs_layer, rows)
        second_sizes = range(needs_layer, columns) if self.has_second else range(1)
        head = self.head if rank == self.head_rank else 0.0
        for a, b in itertools.product(first_sizes, second_sizes):
            first = (self.first[a:] - self.first[: rows - a])[:, None]
            second = (self.second[b:] - self.second[: columns - b])[None, :]
            if self.has_second:
                second = second + head
            else:
                first = first + head
            if first.min() + second.min() > bound:
                continue
            found = combine(value[: rows - a, : columns - b], first, second)
            found = np.where(first + second > bound, np.inf, found)
            better = found < best[a:, b:]
            best[a:, b:] = np.where(better, found, best[a:, b:])
            choice[a:, b:][better] = (a, b)
        return best, choice

    def _sizes(self, choices: list[Table]) -> list[int]:
        """Returns the sizes in order of stages, by backtracking from the last rank."""
        i, j = len(self.first) - 1, len(self.second) - 1
        sizes = [0] * self.placement.num_stages
        for rank in reversed(range(self.placement.ranks)):
            a, b = (int(size) for size in choices[rank][i, j])
            stages = self.placement.stages_of(rank)
            sizes[stages[0]] = a
            if self.has_second:
                sizes[stages[1]] = b
            i, j = i - a, j - b
        return sizes
