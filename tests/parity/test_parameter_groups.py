"""Groups of parameters through the engine: rates, decay and frozen weights are those of torch's AdamW on one process.

The oracle is plain torch: every parameter is a group of AdamW with the rate and decay of its group, frozen ones need no
gradient, `clip_grad_norm_` sees the others. Each layout trains, skips a step, saves and resumes; it loads what another
layout and precision wrote, bit by bit, also weights of frozen parameters that bfloat16 does not represent.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from parallel.config import ParallelConfig, ParameterGroup
from parallel.engine.optimizers import has_decay
from parallel.engine.training import Training
from parallel.mesh import start
from ranks import run_on_ranks
from tests.parity.engine_steps import (
    CPU,
    OPTIMIZER,
    RATE,
    Named,
    Walk,
    oracle,
    small_configuration,
)
from tests.parity.group_cases import training_of
from tests.parity.layout_cases import MODELS, Case

CASE = Case(1, 1, 1, 1, "-", "-", 4, "small", "everything")
SMALL = replace(MODELS["cohere"], num_layers=5)
# Only layer 1 is full. Its matrices, its norm, and one matrix of it train in three ways.
GROUPS = {
    "rest": ParameterGroup(frozen=True),
    "long": ParameterGroup(
        kinds=["full_*"], learning_rate_factor=0.5, weight_decay_factor=3.0
    ),
    "values": ParameterGroup(
        kinds=["full_*"], parameters=["attention.v_proj.*"], learning_rate_factor=2.0,
        weight_decay_factor=0.0,
    ),
}  # fmt: skip
Layout = tuple[ParallelConfig, str]
LAYOUTS: tuple[Layout, ...] = (
    (ParallelConfig(sequence=2, zero_stage=2), "float32"),
    (ParallelConfig(zero_stage=3), "bfloat16"),
    (ParallelConfig(pipeline=2), "bfloat16"),
)
OTHERS: tuple[Layout, ...] = (
    (ParallelConfig(pipeline=2, pipeline_schedule="zbv"), "float32"),
    (ParallelConfig(tensor=2), "float32"),
    (ParallelConfig(zero_stage=0), "float32"),
    (ParallelConfig(), "float32"),
    (ParallelConfig(), "bfloat16"),
    (ParallelConfig(zero_stage=2), "bfloat16"),
    (ParallelConfig(zero_stage=3), "float32"),
    (ParallelConfig(tensor=2, zero_stage=3), "bfloat16"),
    (ParallelConfig(tensor=2), "bfloat16"),
    (ParallelConfig(sequence=2, zero_stage=3), "float32"),
    (ParallelConfig(pipeline=2), "float32"),
    (ParallelConfig(pipeline=2, pipeline_schedule="interleaved_1f1b"), "float32"),
    (ParallelConfig(pipeline=2, pipeline_schedule="zbv"), "bfloat16"),
)


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a name that cases know; and the configuration, composed before ranks are forked."""
    monkeypatch.setitem(MODELS, "small", SMALL)
    small_configuration()


def grouped(training: Training) -> Callable[[Named], Callable[[], object]]:
    """A step of torch's AdamW, every parameter a group of its own."""

    def adamw(named: Named) -> Callable[[], object]:
        groups: list[dict[str, Any]] = []
        for name, parameter in named:
            one = training.settings[training.group(name)]
            parameter.requires_grad_(not one.frozen)
            decay = 0.2 * one.weight_decay_factor * has_decay(name)
            if not one.frozen:
                rate = RATE * one.learning_rate_factor
                groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=OPTIMIZER.epsilon).step

    return adamw


def frozen_weights(found: dict[str, dict[str, Tensor]], training: Training) -> dict[str, Tensor]:
    """The weights of frozen parameters, of which there is nothing else."""
    frozen = {name: of_name for name, of_name in found.items() if training.is_frozen(name)}
    assert all(set(of_name) == {"weight"} for of_name in frozen.values())
    return {name: of_name["weight"] for name, of_name in frozen.items()}


@pytest.mark.parametrize(
    "layouts", [LAYOUTS, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_groups_train_skip_resume_and_move_under_every_layout_as_on_one_process(
    layouts: tuple[Layout, ...], tmp_path: Path
) -> None:
    training = training_of(SMALL, GROUPS)
    truth = oracle(CASE, grouped(training))

    def work(rank: int, world_size: int) -> list[dict[str, Tensor]]:
        world, before, frozen = start(CPU, 60).world, None, []
        for number, (layout, precision) in enumerate(layouts):
            walk = Walk(world, CASE, layout, OPTIMIZER, precision, training)
            before = walk.check(tmp_path / str(number), truth, before)
            frozen.append(frozen_weights(before[2], training))
        return frozen

    for frozen in run_on_ranks(work, 2):
        for (_, precision), found in zip(layouts, frozen, strict=True):
            assert len(found) == 34  # all but the eight of layer 1
            for name, weight in found.items():
                # A new bfloat16 engine rounds its initial weights.
                start_at = truth[2][name]
                start_at = start_at.bfloat16().float() if precision == "bfloat16" else start_at
                assert torch.equal(weight, start_at), name
