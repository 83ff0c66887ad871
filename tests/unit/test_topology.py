"""The grid of ranks: every group cuts the world into parts, in rank order, and every rank is found again."""

from itertools import combinations, product

import pytest

from parallel.topology import AXES, Axis, Topology

GRIDS = [
    Topology(),
    Topology(tensor=2, sequence=2, data=2, pipeline=2),
    Topology(tensor=3, sequence=1, data=2, pipeline=5),
    Topology(sequence=7),
    Topology(tensor=4, data=3),
]
AXIS_SETS: list[tuple[Axis, ...]] = [
    axes for count in range(len(AXES) + 1) for axes in combinations(AXES, count)
]


def coordinates(grid: Topology, rank: int) -> dict[Axis, int]:
    """Where a rank sits on every axis: the inverse of `rank_at`."""
    found: dict[Axis, int] = {}
    for axis in reversed(AXES):
        rank, found[axis] = divmod(rank, grid.sizes[axis])
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_coordinates_and_ranks_are_one_to_one(grid: Topology) -> None:
    places = [coordinates(grid, rank) for rank in range(grid.world_size)]
    assert [grid.rank_at(place) for place in places] == list(range(grid.world_size))
    # Counting through the grid, slowest axis first, is counting through the ranks.
    everywhere = product(*(range(grid.sizes[axis]) for axis in AXES))
    assert [tuple(place[axis] for axis in AXES) for place in places] == list(everywhere)


@pytest.mark.parametrize("axes", AXIS_SETS)
@pytest.mark.parametrize("grid", GRIDS)
def test_groups_cut_the_world_into_parts(grid: Topology, axes: tuple[Axis, ...]) -> None:
    groups = grid.groups(*axes)
    assert sorted(rank for group in groups for rank in group) == list(range(grid.world_size))
    expected = 1
    for axis in axes:
        expected *= grid.sizes[axis]
    assert {len(group) for group in groups} == {expected}


@pytest.mark.parametrize("axes", AXIS_SETS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_group_shares_every_other_coordinate_and_is_in_rank_order(
    grid: Topology, axes: tuple[Axis, ...]
) -> None:
    for group in grid.groups(*axes):
        places = [coordinates(grid, rank) for rank in group]
        others = {tuple(place[axis] for axis in AXES if axis not in axes) for place in places}
        assert len(others) == 1
        assert list(group) == sorted(group)
        # The place in a group of one axis is the coordinate on it.
        if len(axes) == 1:
            assert [place[axes[0]] for place in places] == list(range(len(group)))


def test_the_order_in_which_axes_are_named_does_not_matter() -> None:
    grid = Topology(tensor=2, sequence=3, data=2, pipeline=2)
    assert grid.groups("data", "sequence") == grid.groups("sequence", "data")


def test_tensor_ranks_are_neighbours_and_pipeline_stages_are_far_apart() -> None:
    grid = Topology(tensor=2, sequence=2, data=2, pipeline=2)
    assert grid.groups("tensor")[0] == (0, 1)
    assert grid.groups("sequence")[0] == (0, 2)
    assert grid.groups("data")[0] == (0, 4)
    assert grid.groups("pipeline")[0] == (0, 8)
    assert grid.groups("data", "sequence")[1] == (1, 3, 5, 7)
    assert grid.groups("pipeline", "tensor")[0] == (0, 1, 8, 9)
