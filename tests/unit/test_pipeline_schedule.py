"""Orders of work: every action once, no rank waits for ever, idle time as the schedules promise."""

import sys
from collections import Counter

import pytest

from model.config import ModelConfig
from parallel.config import ParallelConfig
from parallel.pipeline.placement import Placement, place_stages
from parallel.pipeline.schedule import (
    Action,
    ForwardStep,
    TimedAction,
    bubble,
    compute_order,
    forward_order,
    ideal_bubble,
    simulate,
)
from parallel.pipeline.split import pipeline_problems
from parallel.pipeline.timeline import replayed_bubble, timeline_picture, timeline_table

SCHEDULES = ("1f1b", "interleaved_1f1b", "zbv")


def placement(ranks: int, schedule: str) -> Placement:
    return place_stages(ParallelConfig(pipeline=ranks, pipeline_schedule=schedule))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_problems_name_exactly_the_numbers_of_micro_batches_that_cannot_run(schedule: str) -> None:
    for ranks in (2, 3, 4):
        for micro_batches in range(1, 14):
            parallel = ParallelConfig(pipeline=ranks, pipeline_schedule=schedule)
            found = pipeline_problems(
                ModelConfig(num_layers=12),
                parallel,
                micro_batches=micro_batches,
                keep_for_backward="everything",
            )
            place = place_stages(parallel)
            if schedule == "1f1b":
                assert bool(found) == (micro_batches < ranks)  # the rule in torch's Schedule1F1B
            elif found:
                with pytest.raises(ValueError):
                    compute_order(place, micro_batches)
            else:
                order = compute_order(place, micro_batches)
                timed = simulate(order, place.num_stages, lambda _: 1.0)
                assert len(timed) == sum(len(actions) for actions in order)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_stage_sees_every_micro_batch_once(schedule: str) -> None:
    place = placement(3, schedule)
    order = compute_order(place, 6)
    backward = {"B"} if schedule != "zbv" else {"I", "W"}
    everything = Counter(
        Action(kind, stage, index)  # type: ignore[arg-type]
        for kind in {"F", *backward}
        for stage in range(place.num_stages)
        for index in range(6)
    )
    assert Counter(action for actions in order for action in actions) == everything
    for rank, actions in enumerate(order):
        assert {action.stage for action in actions} == set(place.stages_of(rank))


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("micro_batches", [4, 8, 32])
def test_ideal_bubbles_are_the_known_formulas(ranks: int, micro_batches: int) -> None:
    p, m = ranks, micro_batches
    assert ideal_bubble(placement(p, "1f1b"), m) == pytest.approx((p - 1) / (m + p - 1))
    half = (p - 1) / 2
    assert ideal_bubble(placement(p, "interleaved_1f1b"), m) == pytest.approx(half / (m + half))
    # Only the first micro-batch's way down the V is idle, where there are enough to fill it.
    if m >= 2 * p:
        assert ideal_bubble(placement(p, "zbv"), m) == pytest.approx((p - 1) / (6 * m + p - 1))


def test_drawing_in_the_module_is_what_is_computed() -> None:
    order = compute_order(placement(3, "1f1b"), 4)
    timed = simulate(order, 3, lambda action: {"F": 1.0, "B": 2.0}[action.kind])
    rows = [[".."] * 18 for _ in range(3)]
    for one in timed:
        for slot in range(int(one.start), int(one.end)):
            rows[one.rank][slot] = f"{one.action.kind}{one.action.micro_batch}"
    for rank, row in enumerate(rows):
        assert f"rank {rank}   {' '.join(row)}" in (
            sys.modules[compute_order.__module__].__doc__ or ""
        )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("micro_batches", [1, 3, 8])
def test_forward_only_passes_cannot_lock_up(schedule: str, micro_batches: int) -> None:
    """Even if each send waits for its receive: two ranks name their transfers in the same order."""
    place = placement(3, schedule)
    order = forward_order(place, micro_batches)
    ran = [(s.stage, s.micro_batch) for steps in order for s in steps if s.what == "run"]
    assert sorted(ran) == [(s, i) for s in range(place.num_stages) for i in range(micro_batches)]
    for a in range(3):
        for b in range(a):
            assert between(order, place, a, b) == between(order, place, b, a)
    for steps in order:
        for number, step in enumerate(steps):
            if step.what == "run" and step.stage > 0:
                before = [(s.what, s.stage, s.micro_batch) for s in steps[:number]]
                index = step.micro_batch
                assert ("receive", step.stage, index) in before or (
                    "run",
                    step.stage - 1,
                    index,
                ) in before


def between(order: list, place: Placement, rank: int, other: int) -> list[tuple[int, int]]:
    """(stage that makes it, micro-batch) of every transfer between two ranks, in the order of `rank`."""
    found = []
    for step in order[rank]:
        if step.what == "send" and place.rank_of(step.stage + 1) == other:
            found.append((step.stage, step.micro_batch))
        if step.what == "receive" and place.rank_of(step.stage - 1) == other:
            found.append((step.stage - 1, step.micro_batch))
    return found


def test_last_stage_gives_its_micro_batches_in_order() -> None:
    for schedule in SCHEDULES:
        place = placement(4, schedule)
        last = place.num_stages - 1
        steps = forward_order(place, 9)[place.rank_of(last)]
        ran = [s.micro_batch for s in steps if s.what == "run" and s.stage == last]
        assert ran == list(range(9))
        forwards = [
            action.micro_batch
            for action in compute_order(place, 8)[place.rank_of(last)]
            if action.kind == "F" and action.stage == last
        ]
        assert forwards == list(range(8))


def test_bubble_is_the_idle_share_of_all_ranks() -> None:
    timed = [
        TimedAction(0, Action("F", 0, 0), 1.0, 2.0),
        TimedAction(1, Action("F", 1, 0), 2.0, 5.0),
    ]
    assert bubble(timed, 2) == pytest.approx(1 - 4 / 8)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_table_and_picture_tell_what_was_recorded(schedule: str) -> None:
    place = placement(2, schedule)
    timed = simulate(compute_order(place, 4), place.num_stages, lambda _: 0.5)
    assert replayed_bubble(timed, place, 4) == pytest.approx(bubble(timed, 2))
    table = timeline_table(timed, place, 4)
    assert f"{bubble(timed, 2):.1%}" in table
    assert f"{ideal_bubble(place, 4):.1%}" in table
    picture = timeline_picture(timed, "4 < 5 micro-batches")
    assert picture.count("<title>") == len(timed)
    assert "4 &lt; 5" in picture


def rounds(order: list[list[ForwardStep]]) -> int:
    """How long a forward-only pass takes, in forwards of one stage, if transfers take no time."""
    waiting = [[s for s in steps if s.what == "run"] for steps in order]
    free, finished = [0] * len(order), dict[tuple[int, int], int]()
    while any(waiting):
        for rank, steps in enumerate(waiting):
            while steps and (
                not steps[0].stage or (steps[0].stage - 1, steps[0].micro_batch) in finished
            ):
                step = steps.pop(0)
                ready = finished.get((step.stage - 1, step.micro_batch), 0)
                free[rank] = max(free[rank], ready) + 1
                finished[step.stage, step.micro_batch] = free[rank]
    return max(free)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_evaluate_at_once_where_there_are_as_many_streams(ranks: int) -> None:
    place = placement(ranks, "1f1b")
    one_by_one = ranks * rounds(forward_order(place, 1))
    assert one_by_one == ranks**2
    assert rounds(forward_order(place, ranks)) == 2 * ranks - 1
