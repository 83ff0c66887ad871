"""When a loss is a spike, and whose it is."""

import math
import random
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest

from train.checkpointing.state import RunState
from train.configuration.schema import SpikesConfig
from train.health.bad_step import Held, sort_out
from train.health.spikes import FLOOR, limit_of_step, loss_limit, remember, wants_back

WINDOW = 128
CONFIG = SpikesConfig(action="rollback", window=WINDOW, threshold=6.0, patience=2)


def noisy(count: int, mean: float = 3.0, deviation: float = 0.05) -> list[float]:
    draw = random.Random(7)
    return [draw.gauss(mean, deviation) for _ in range(count)]


def test_the_limit_is_threshold_standard_deviations_above_the_mean_of_normal_losses() -> None:
    losses = noisy(10_001)
    expected = fmean(losses) + 6.0 * stdev(losses)
    # The median absolute deviation of so many normal numbers is within some percent of the standard deviation's.
    found = loss_limit(losses, replace(CONFIG, window=len(losses)))
    assert found == pytest.approx(expected, abs=0.05 * 6.0 * 0.05)


def test_losses_that_spiked_unseen_hardly_move_the_limit() -> None:
    losses = noisy(WINDOW)
    spoilt = [*losses[:-6], *([50.0] * 6)]
    plain, moved = loss_limit(losses, CONFIG), loss_limit(spoilt, CONFIG)
    assert moved - plain < 0.1
    assert fmean(spoilt) + 6 * stdev(spoilt) > 50.0, (
        "where mean and deviation would let the next one pass"
    )


def test_a_flat_history_does_not_make_a_spike_of_a_wrinkle() -> None:
    flat = [2.0] * WINDOW
    assert loss_limit(flat, CONFIG) == pytest.approx(2.0 * (1 + 6 * FLOOR))


def test_nothing_is_judged_before_half_a_window() -> None:
    losses = noisy(WINDOW // 2)
    assert loss_limit(losses[1:], CONFIG) == math.inf
    assert loss_limit(losses, CONFIG) < math.inf


def walk(losses: list[float], config: SpikesConfig, stage: str = "a") -> RunState:
    state = RunState()
    for loss in losses:
        limit = limit_of_step(state, stage, config)
        state.stage = stage
        remember(state, loss, limit, config)
    return state


def test_spikes_and_steps_that_were_not_finite_count_in_a_row_and_are_not_remembered() -> None:
    losses = noisy(200)
    state = walk([*losses, 9.0, math.nan], CONFIG)
    assert state.recent_losses == losses[-WINDOW:]
    assert state.spiking_steps == 2
    assert wants_back(state, CONFIG)
    assert not wants_back(walk([*losses, 9.0, 3.0, 9.0], CONFIG), CONFIG)


def test_another_stage_begins_anew() -> None:
    state = walk([*noisy(200), 9.0], CONFIG)
    assert limit_of_step(state, "b", CONFIG) == math.inf
    assert (state.recent_losses, state.spiking_steps) == ([], 0)


def test_where_spikes_are_ignored_nothing_is_remembered() -> None:
    config = SpikesConfig()
    state = walk(noisy(200), config)
    assert (state.recent_losses, state.spiking_steps) == ([], 0)
    assert limit_of_step(state, "a", config) == math.inf


def held(
    rank: int, losses: list[float], *, data_rank: int = 0, counts: bool = True, says: bool = False
) -> Held:
    streams: list[dict[str, Any]] = [{"valid_tokens": 10, "documents": []} for _ in losses]
    return Held(rank, data_rank, losses, counts, streams if says else [])


def names(entries: list[dict[str, Any]]) -> list[tuple[int, int, str]]:
    return [(entry["data_rank"], entry["micro_batch"], entry["loss"]) for entry in entries]


def test_the_parts_of_sequence_ranks_are_added_and_tensor_ranks_counted_once() -> None:
    # Rank 0 holds no head; of the last stage, ranks 4 to 7 are sequence 0, 1 with two tensor ranks each.
    ranks = [
        Held(0, 0, [], True, [{"valid_tokens": 10, "documents": []} for _ in range(2)]),
        held(4, [30.0, 10.0]),
        held(5, [30.0, 10.0], counts=False),
        held(6, [20.0, 5.0]),
        held(7, [20.0, 5.0], counts=False),
    ]
    offending, others = sort_out(ranks, limit=4.0)
    assert names(offending) == [(0, 0, "5.0")]
    assert names(others) == [(0, 1, "1.5")]
    assert offending[0]["ranks"] == {"4": "30.0", "5": "30.0", "6": "20.0", "7": "20.0"}


def test_what_is_not_finite_comes_before_what_is_high() -> None:
    ranks = [
        held(0, [90.0, 20.0], says=True),
        held(1, [20.0, math.inf], data_rank=1, says=True),
    ]
    offending, others = sort_out(ranks, limit=4.0)
    assert names(offending) == [(1, 1, "inf")]
    assert names(others) == [(0, 0, "9.0"), (0, 1, "2.0"), (1, 0, "2.0")]


def test_a_gradient_that_was_not_finite_accuses_every_micro_batch() -> None:
    offending, others = sort_out([held(0, [20.0, 21.0], says=True)], limit=math.inf)
    assert len(offending) == 2
    assert others == []
