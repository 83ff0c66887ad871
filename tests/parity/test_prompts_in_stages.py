"""Long-context tasks of a run whose stages set windows, under every layout; a resumed run may have other tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.job import run_job

Arguments = Callable[..., list[str]]
LAYOUTS = (
    {"parallel.sequence": "2"},
    {"parallel.sequence": "2", "parallel.sequence_layout": "zigzag"},
    {"parallel.pipeline": "2", "parallel.pipeline_schedule": "zbv"},
    {"parallel.tensor": "2"},
    {"parallel.zero_stage": "3"},
)
TASK = "{task: passkey, lengths: [96, 300], depths: 2, samples: 2, last_tokens: 40, controls: true}"
CHANGES = {
    "preflight.enabled": "false",
    "evaluation.yardstick_tokens": "100",
    "train.max_steps": "3",
    "model.init_std": "0.4",
    # Documents share masks in the stage; prompts do not.
    "+schedule.stages.first.document_mask": "false",
    "model.layer_pattern": "[window_rope,full_rope]",
    "+schedule.stages.first.kinds.full_rope": "{window: {start: 8, per_step: 0.5}}",
    "+schedule.stages.first.kinds.window_rope": "{window: {start: 4}}",
}
NUMBERS = ("loss", "first_wrong")


def rows(arguments: list[str], outputs: Path, ranks: int = 1) -> list[dict[str, Any]]:
    config = compose_run(arguments)
    assert set(run_on_ranks(lambda *_: run_job(config), ranks)) == {0}
    lines = (outputs / "small/evaluation.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["task"] != "held_out"]


@pytest.mark.slow
def test_prompts_in_a_stage_with_windows_score_alike_under_every_layout(
    small_run: Arguments, tmp_path: Path
) -> None:
    changes = CHANGES | {"+evaluation.tasks": f"{{a: {TASK}}}"}
    (wanted,) = rows(small_run(tmp_path / "one", **changes), tmp_path / "one")
    assert wanted["windows"] == {"full_rope": 9, "window_rope": 6}
    for number, layout in enumerate(LAYOUTS):
        outputs = tmp_path / str(number)
        (found,) = rows(small_run(outputs, **changes, **layout), outputs, 2)
        for cell, other in zip(found["cells"], wanted["cells"], strict=True):
            assert cell["hits"] == other["hits"]
            for mine, theirs in (
                (cell, other),
                *((cell[k], other[k]) for k in ("last_part", "removed")),
            ):
                assert [mine[k] for k in NUMBERS] == pytest.approx(
                    [theirs[k] for k in NUMBERS], rel=1e-5
                ), layout


@pytest.mark.slow
def test_a_resumed_run_may_be_evaluated_with_other_tasks(
    small_run: Arguments, tmp_path: Path
) -> None:
    rows(small_run(tmp_path, **CHANGES, **{"+evaluation.tasks": f"{{a: {TASK}}}"}), tmp_path)
    other = {
        "train.max_steps": "5",
        "+evaluation.tasks": "{b: {task: vt, lengths: [800]}, first_sentence: {lengths: [200]}}",
        "checkpoint.resume": "auto",
    }
    found = rows(small_run(tmp_path, **CHANGES | other), tmp_path)
    assert [(row["step"], row["task"]) for row in found] == [
        (3, "a"),
        (5, "b"),
        (5, "first_sentence"),
    ]
