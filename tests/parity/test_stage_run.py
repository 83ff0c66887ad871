"""Runs whose stages change attention: windows that grow, no rotation, a scale of queries.

They resume to the same bits inside a ramp and at the border of stages, and on other ranks to the same numbers.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train.checkpointing.state import read_state
from train.configuration.compose import compose_run
from train.job import run_job

Arguments = Callable[..., list[str]]
# 10 steps at 64, where full layers have a window of 8 + step // 2; 10 steps at 128, where nothing rotates.
STAGES = {
    "model.layer_pattern": "[window_rope,full_rope]",
    "+schedule.stages.first.kinds.full_rope": "{window: {start: 8, per_step: 0.5}}",
    "+schedule.stages.first.kinds.window_rope": "{window: {start: 4}}",
    "+schedule.stages.second.kinds.window_rope": "{position: none}",
    "+schedule.stages.second.kinds.full_rope": (
        "{position: none, position_scale: {scale: drope, trained_length: 64}}"
    ),
    "schedule.stages.second.micro_batch_tokens": "256",
    "evaluation.max_tokens": "512",
    "evaluation.every_steps": "4",
}


def rows(outputs: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outputs / "small" / name).read_text().splitlines()]


def numbers(outputs: Path) -> list[list[Any]]:
    """Of every step; then the held-out losses that a run has wherever it is cut."""
    by_step = {row["step"]: row["loss"] for row in rows(outputs, "evaluation.jsonl")}
    return [
        *([row[key] for key in ("loss", "gradient_norm", "valid_tokens")] for row in rows(outputs)),
        [by_step[step] for step in (4, 8, 10, 12, 16, 20)],
    ]


def test_a_run_resumes_inside_a_ramp_and_at_a_border_to_the_same_numbers(
    small_run: Arguments, tmp_path: Path
) -> None:
    whole, cut, ranks = (tmp_path / name for name in ("whole", "cut", "ranks"))

    def config(outputs: Path, steps: int, **changes: str) -> Any:
        return compose_run(
            small_run(outputs, **STAGES, **{"train.max_steps": str(steps)}, **changes)
        )

    alone = [config(whole, 20), *(config(cut, steps) for steps in (5, 10, 13, 20))]
    on_two = config(ranks, 20, **{"parallel.sequence": "2"})

    def work(rank: int, world_size: int) -> list[int]:
        statuses = [run_job(one) for one in alone[:2]]
        shutil.copytree(cut, ranks)
        return statuses + [run_job(one) for one in alone[2:]]

    assert run_on_ranks(work, 1) == [[0] * 5]
    assert numbers(cut) == numbers(whole)
    windows = [row.get("windows") for row in rows(whole)]
    assert windows[:3] == [
        {"full_rope": 8, "window_rope": 4},
        {"full_rope": 8, "window_rope": 5},
        {"full_rope": 9, "window_rope": 6},
    ]
    assert windows[10:] == [None] * 10

    assert run_on_ranks(lambda *_: run_job(on_two), 2) == [0, 0]
    for found, expected in zip(numbers(ranks), numbers(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    state = read_state(ranks / "small/checkpoints/step_00000020")
    assert state.lengths == [64, 128]
