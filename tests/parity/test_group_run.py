"""A run whose second stage freezes the windowed layers, and whose third trains them again, more slowly.

It resumes to the same bits inside every stage and at the borders, and takes the same steps on other ranks.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ranks import run_on_ranks
from train.checkpointing.state import read_state
from train.configuration.compose import compose_run
from train.job import run_job

Arguments = Callable[..., list[str]]
# Stages of 4, 4 and 2 steps.
STAGES = {
    "schedule.stages.first.tokens": "2048",
    "schedule.stages.second.tokens": "2048",
    "schedule.learning_rate.warmup_tokens": "0",
    "model.layer_pattern": "[window_rope,full_rope]",
    "optimizer.groups": "{windows: {kinds: [window_rope]}, norms: {parameters: ['*norm.weight'], "
    "learning_rate_factor: 0.5}}",
    "+schedule.stages.first.groups": "{windows: {weight_decay_factor: 2}}",
    "+schedule.stages.second.groups": "{windows: {frozen: true}}",
    "+schedule.stages.third": "{tokens: 1024, sequence_length: 64, batch_tokens: 512, micro_batch_tokens: 128,"
    " groups: {windows: {learning_rate_factor: 0.25}}}",
    "evaluation.enabled": "false",
    "checkpoint.keep": "9",
}
WINDOWS = ("layers.0.", "layers.2.")


def rows(outputs: Path) -> list[list[Any]]:
    lines = (outputs / "small/metrics.jsonl").read_text().splitlines()
    keys = ("step", "stage", "loss", "gradient_norm")
    return [[json.loads(line)[key] for key in keys] for line in lines]


def saved(outputs: Path, step: int) -> dict[str, Tensor]:
    folder = outputs / f"small/checkpoints/step_{step:08d}"
    return {k: t for file in folder.glob("*.safetensors") for k, t in load_file(file).items()}


def is_frozen_then(name: str) -> bool:
    """Norms are of a later group."""
    return name.startswith(WINDOWS) and not name.endswith("norm.weight")


def test_layers_that_are_frozen_and_train_again_resume_bit_for_bit(
    small_run: Arguments, tmp_path: Path
) -> None:
    whole, cut, ranks = (tmp_path / name for name in ("whole", "cut", "ranks"))

    def config(outputs: Path, steps: int, **changes: str) -> Any:
        given = STAGES | {"train.max_steps": str(steps)} | changes
        return compose_run(small_run(outputs, **given))

    alone = [config(whole, 10), *(config(cut, steps) for steps in (4, 6, 9, 10))]
    on_two = config(ranks, 10, **{"parallel.pipeline": "2"})

    def work(rank: int, world_size: int) -> list[int]:
        statuses = [run_job(one) for one in alone[:3]]
        shutil.copytree(cut, ranks)  # in the second stage
        return statuses + [run_job(one) for one in alone[3:]]

    assert run_on_ranks(work, 1) == [[0] * 5]
    assert rows(cut) == rows(whole)
    last, expected = saved(cut, 10), saved(whole, 10)
    assert last.keys() == expected.keys()
    assert all(torch.equal(last[key], expected[key]) for key in last)

    first, second = saved(whole, 4), saved(whole, 8)
    frozen = {key for key in first if is_frozen_then(key.split("/")[1])}
    assert {key for key in first if key not in second} == {
        key for key in frozen if not key.startswith("weight/")
    }
    for key in second:
        assert torch.equal(first[key], second[key]) == (key in frozen), key
        assert not torch.equal(second[key], expected[key]), key

    names = {key.split("/")[1] for key in frozen}
    counts = [read_state(whole / f"small/checkpoints/step_{step:08d}") for step in (4, 8, 10)]
    assert [one.optimizer_steps for one in counts] == [4, 8, 10]
    assert [one.other_optimizer_steps for one in counts] == [
        {},
        dict.fromkeys(names, 0),
        dict.fromkeys(names, 2),
    ]
    log = (whole / "small/log.txt").read_text()
    assert "parameters train; groups: windows frozen, norms 0.5 x learning rate\n" in log
    listed = (
        "14 parameters (layers.0.attention.q_proj.weight, layers.0.attention.k_proj.weight, ...)"
    )
    assert log.count(f"the optimizer's states of {listed} are dropped: frozen now\n") == 1
    assert log.count(f"the optimizer's states of {listed} start at zero: trained now\n") == 1

    assert run_on_ranks(lambda *_: run_job(on_two), 2) == [0, 0]
    for found, wanted in zip(rows(ranks), rows(whole), strict=True):
        assert found[:2] == wanted[:2]
        assert found[2:] == pytest.approx(wanted[2:], rel=1e-5)
