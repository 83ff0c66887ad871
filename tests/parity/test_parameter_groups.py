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
from parallel.engine.groups import GroupSettings
from parallel.engine.optimizers import OPTIMIZERS, MatrixOptimizer, has_decay
from parallel.engine.training import Training
from parallel.mesh import arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import (
    CPU,
    OPTIMIZER,
    RATE,
    Named,
    Walk,
    everything,
    oracle,
    small_configuration,
    step,
    trainer_of,
)
from tests.parity.group_cases import TRAINED, training_of
from tests.parity.layout_cases import MODELS, Case
from tests.parity.test_matrix_optimizer import update

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


# A step's settings of GROUPS: the rate of a group falls, its decay is gone and comes back.
BY_STEP = (
    {"long": GroupSettings(0.5, 3.0)},
    {"long": GroupSettings(0.25, 0.0), "values": GroupSettings(1.0, 1.0)},
    {"long": GroupSettings(1.5, 1.0), "values": GroupSettings(0.125, 2.0)},
)


def changing(training: Training) -> Callable[[Named], Callable[[], object]]:
    """As `grouped`, with the settings of `BY_STEP`."""

    def adamw(named: Named) -> Callable[[], object]:
        step_once = grouped(training)(named)
        optimizer: Any = step_once.__self__  # type: ignore[attr-defined]
        trained = [name for name, _ in named if not training.is_frozen(name)]
        settings = iter(BY_STEP)

        def take_step() -> None:
            now = {**training.settings, **next(settings)}
            for name, group in zip(trained, optimizer.param_groups, strict=True):
                one = now[training.group(name)]
                group["lr"] = RATE * one.learning_rate_factor
                group["weight_decay"] = 0.2 * one.weight_decay_factor * has_decay(name)
            step_once()

        return take_step

    return adamw


def on_one_process(training: Training) -> Callable[[Named], Callable[[], object]]:
    """The rule of `test_matrix_optimizer` with the rates and decays of groups."""

    def optimizer(named: Named) -> Callable[[], object]:
        momenta = {name: torch.zeros_like(parameter) for name, parameter in named}
        for name, parameter in named:
            parameter.requires_grad_(not training.is_frozen(name))

        @torch.no_grad()
        def take_step() -> None:
            for name, weight in named:
                if weight.grad is None:
                    continue
                one = training.settings[training.group(name)]
                momenta[name] = OPTIMIZER.beta1 * momenta[name] + weight.grad
                direction = momenta[name] / (momenta[name].norm() + OPTIMIZER.epsilon)
                direction += 0.2 * one.weight_decay_factor * has_decay(name) * weight
                weight -= RATE * one.learning_rate_factor * direction

        return take_step

    return optimizer


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


def test_rates_and_decays_of_groups_change_from_step_to_step() -> None:
    training = training_of(SMALL, GROUPS)
    losses, norms, expected = oracle(CASE, changing(training))

    def work(rank: int, world_size: int) -> Any:
        parallel = ParallelConfig(tensor=2)
        mesh = start(CPU, 60, parallel.topology(world_size))
        trainer = trainer_of(mesh, SMALL, parallel, training=training)
        found = [
            step(trainer, mesh, CASE, parallel, number, groups=groups)
            for number, groups in enumerate(BY_STEP)
        ]
        assert all(result.applied for result in found)
        return [(r.loss, r.gradient_norm) for r in found], everything(trainer, mesh)

    for results, found in run_on_ranks(work, 2):
        # float32: a few units in the last place over sums of some hundred terms.
        assert [loss for loss, _ in results] == pytest.approx(losses, rel=2e-6)
        assert [norm for _, norm in results] == pytest.approx(norms, rel=1e-5)
        for name, weight in expected.items():
            torch.testing.assert_close(
                found[name]["weight"], weight, rtol=1e-4, atol=2e-6, msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "layouts"),
    [
        ("float32", [{"tensor": 2}, {"tensor": 2, "zero_stage": 3}, {"pipeline": 2}]),
        # DeepSpeed's optimizer for it takes the norm of what a rank owns and trains, which may be nothing.
        ("bfloat16", [{"tensor": 2}, {"pipeline": 2}]),
    ],
)
def test_the_norm_counts_each_trained_parameter_once_whatever_trains(
    precision: str, layouts: list[dict[str, int]]
) -> None:
    """Also where a tensor rank owns nothing that trains, or a pipeline rank holds nothing."""
    case = replace(CASE, model="llama")
    sets = [training_of(case.config, TRAINED[name]) for name in ("vectors", "embedding", "head")]
    truths = [oracle(case, grouped(training))[:2] for training in sets]

    def work(rank: int, world_size: int) -> list[Any]:
        world, found = start(CPU, 60).world, []
        for parallel in (ParallelConfig(**given) for given in layouts):
            mesh = arrange(world, parallel.topology(world_size))
            for training in sets:
                how = {"training": training, "precision": precision}
                trainer = trainer_of(mesh, case.config, parallel, **how)
                taken = [step(trainer, mesh, case, parallel, number) for number in range(2)]
                found.append(([r.loss for r in taken], [r.gradient_norm for r in taken]))
                trainer.engine.close()
        return found

    of_loss, of_norm = (2e-6, 1e-5) if precision == "float32" else (4e-3, 4e-2)
    for found in run_on_ranks(work, 2):
        for (losses, norms), truth in zip(found, truths * len(layouts), strict=True):
            assert losses == pytest.approx(truth[0][:2], rel=of_loss)
            assert norms == pytest.approx(truth[1][:2], rel=of_norm)


@pytest.mark.slow
def test_a_matrix_optimizer_has_the_rate_and_decay_of_every_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPTIMIZERS, "normed_sgd", MatrixOptimizer(("momentum",), update))
    training = training_of(SMALL, GROUPS)
    truth = oracle(CASE, on_one_process(training))

    def work(rank: int, world_size: int) -> None:
        world, before = start(CPU, 60).world, None
        for number, (layout, precision) in enumerate((*LAYOUTS, *OTHERS)):
            optimizer = replace(OPTIMIZER, name="normed_sgd")
            walk = Walk(world, CASE, layout, optimizer, precision, training)
            before = walk.check(tmp_path / str(number), truth, before)

    run_on_ranks(work, 2)
