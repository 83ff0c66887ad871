"""Layers are cut so that the busiest rank has the least to do; a split given by hand is checked."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from torch.distributed.pipelining._utils import generate_stage_to_rank_mapping

from model.config import ModelConfig
from model.flops import forward_flops
from parallel.config import ParallelConfig
from parallel.pipeline.balance import (
    balanced_sizes,
    head_cost,
    layer_costs,
)
from parallel.pipeline.placement import Placement, place_stages
from parallel.pipeline.split import pipeline_problems, split_layers
from rank_work import stage_work

SCHEDULES = ("1f1b", "interleaved_1f1b", "zbv")


def layout(ranks: int, schedule: str, split: tuple[int, ...] = ()) -> ParallelConfig:
    return ParallelConfig(pipeline=ranks, pipeline_schedule=schedule, pipeline_split=list(split))


def every_split(num_layers: int, num_stages: int) -> Iterator[tuple[int, ...]]:
    """All ways to hand out layers with none left; only the last stage may be empty."""
    for cuts in itertools.combinations(range(1, num_layers + 1), num_stages - 1):
        ends = (0, *cuts, num_layers)
        yield tuple(end - start for start, end in itertools.pairwise(ends))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_no_other_split_has_a_less_busy_rank_or_more_even_stages(schedule: str, ranks: int) -> None:
    draw = random.Random(ranks)
    for _ in range(4):
        placement = place_stages(layout(ranks, schedule))
        stages = Placement("1f1b", placement.num_stages, placement.num_stages)
        costs = [draw.choice([3, 10]) for _ in range(draw.randint(placement.num_stages - 1, 9))]
        head = draw.choice([0, 2, 25])
        merits = {}
        for sizes in every_split(len(costs), placement.num_stages):
            squares = sum(load**2 for load in stage_work(sizes, costs, head, stages))
            merits[sizes] = (max(stage_work(sizes, costs, head, placement)), squares)
        found = tuple(balanced_sizes(costs, head, placement))
        assert merits[found] == min(merits.values())


@pytest.mark.parametrize(("schedule", "style"), [("interleaved_1f1b", "loop"), ("zbv", "v")])
def test_stages_live_where_the_schedules_of_torch_expect_them(schedule: str, style: str) -> None:
    for ranks in (2, 3, 4, 8):
        placement = place_stages(layout(ranks, schedule))
        expected = generate_stage_to_rank_mapping(ranks, 2 * ranks, style=style)
        assert {stage: placement.rank_of(stage) for stage in range(2 * ranks)} == expected
        held = [stage for rank in range(ranks) for stage in placement.stages_of(rank)]
        assert sorted(held) == list(range(2 * ranks))


def test_costs_are_those_of_the_whole_model() -> None:
    config = ModelConfig(num_layers=7, window=16)
    for length in (8, 100):
        costs = layer_costs(config, length)
        assert sum(costs) + head_cost(config, length) == forward_flops(config, [length])
    assert costs[3] > costs[2]  # every fourth layer is full


def test_a_longer_sequence_gives_the_rank_of_a_full_layer_fewer_layers() -> None:
    config = ModelConfig(num_layers=8, window=16, layer_pattern=["window_rope"] * 7 + ["full_nope"])
    short = [len(stage) for stage in split_layers(config, layout(2, "1f1b"), 16)]
    long = [len(stage) for stage in split_layers(config, layout(2, "1f1b"), 16384)]
    assert short[1] > long[1]
    assert long == [7, 1]


def test_a_large_head_may_have_the_last_stage_for_itself() -> None:
    config = ModelConfig(num_layers=4, hidden_size=16, intermediate_size=16, vocab_size=10**6)
    stages = split_layers(config, layout(4, "1f1b"), 64)
    assert len(stages[-1]) == 0


def test_stages_hold_every_layer_once_in_order() -> None:
    config = ModelConfig(num_layers=11)
    for schedule in SCHEDULES:
        stages = split_layers(config, layout(3, schedule), 256)
        assert [index for stage in stages for index in stage] == list(range(11))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_rank_is_one_stage_whatever_the_schedule(schedule: str) -> None:
    assert place_stages(layout(1, schedule)).num_stages == 1
    assert split_layers(ModelConfig(num_layers=6), layout(1, schedule), 64) == (range(6),)


def test_a_split_by_hand_is_taken_as_it_is() -> None:
    config = ModelConfig(num_layers=6)
    stages = split_layers(config, layout(2, "interleaved_1f1b", (1, 1, 1, 1, 2, 0)), 256)
    assert stages == (range(0, 1), range(1, 2), range(2, 3), range(3, 4), range(4, 6), range(6, 6))


def problems(
    parallel: ParallelConfig, micro_batches: int = 8, keep: str = "everything"
) -> list[str]:
    return pipeline_problems(
        ModelConfig(num_layers=6), parallel, micro_batches=micro_batches, keep_for_backward=keep
    )


def test_layouts_that_run_have_no_problem() -> None:
    assert problems(layout(4, "1f1b")) == []
    assert problems(layout(4, "1f1b", (1, 2, 3, 0)), micro_batches=4) == []
    assert problems(layout(2, "interleaved_1f1b", (1, 1, 1, 1, 1, 1)), micro_batches=1) == []
    assert problems(layout(2, "zbv"), micro_batches=1) == []
    assert problems(layout(2, "1f1b"), keep="input") == []


@pytest.mark.parametrize(
    ("parallel", "kwargs", "words"),
    [
        (layout(2, "zbv"), {"keep": "input"}, "keep_for_backward=input: zbv"),
        (layout(4, "1f1b"), {"micro_batches": 3}, "needs at least one per pipeline rank"),
        (layout(2, "interleaved_1f1b"), {"micro_batches": 5}, "use 4 or 6"),
        (layout(8, "1f1b"), {}, "only the last may be without a layer"),
        (layout(4, "zbv"), {}, "only the last may be without a layer"),
        (layout(2, "1f1b", (1, 2, 3)), {}, "give 2 numbers"),
        (layout(2, "interleaved_1f1b", (3, 3)), {}, "give 4, 6 or another multiple of 2 numbers"),
        (layout(2, "1f1b", (2, 3)), {}, "must add up to model.num_layers=6, not 5"),
        (layout(2, "1f1b", (0, 6)), {}, "give 1 or more"),
        (layout(2, "1f1b", (7, -1)), {}, "give 1 or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_broken_rule_is_one_line_with_a_way_out(
    parallel: ParallelConfig, kwargs: dict[str, Any], words: str
) -> None:
    found = problems(parallel, **kwargs)
    assert len(found) == 1
    assert words in found[0]
    assert "\n" not in found[0]
