"""The engine on every axis at once: three AdamW steps in float32 equal one process, whatever the layout.

The oracle is plain torch: dense attention, `clip_grad_norm_`, `AdamW`. Compared are every step's loss and
gradient norm and the weights after the last one. Then: a checkpoint moves between all layouts bit by bit.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.loader import GlobalBatch
from data.packing.spans import BatchShape
from parallel.checkpoint import tensors
from parallel.checkpoint.index import Index
from parallel.config import ParallelConfig
from parallel.engine.training import StepCounts
from parallel.mesh import World, arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import (
    CPU,
    RATE,
    STEPS,
    differences,
    everything,
    losses_by_source,
    oracle,
    small_configuration,
    step,
    trainer_of,
    weights,
)
from tests.parity.layout_cases import MODELS, TOKENS, Case
from tests.parity.streams import BASE, streams
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage
from train.step import optimizer_step

# Each ZeRO stage on tensor x sequence; every schedule, dealing and model with the other axes.
STEP_CASES = (
    (Case(1, 2, 2, 1, "1f1b", "balanced", 2, "cohere", "input"), 1),
    (Case(2, 1, 2, 1, "-", "zigzag", 2, "llama", "everything"), 1),
    (Case(2, 1, 2, 1, "-", "zigzag", 2, "llama", "everything"), 3),
    (Case(4, 1, 1, 1, "-", "-", 1, "cohere", "everything"), 2),
    (Case(2, 2, 1, 1, "zbv", "-", 4, "llama", "everything"), 1),
    (Case(1, 1, 3, 2, "-", "contiguous", 1, "cohere", "everything"), 3),
    (Case(1, 2, 1, 1, "interleaved_1f1b", "-", 2, "cohere", "everything"), 1),
)
# `make test-all`: eight ranks, three axes at a time, and ZeRO-2 where the cases above have 1 and 3.
OTHER_STEP_CASES = (
    (Case(1, 1, 4, 2, "-", "balanced", 1, "cohere", "input"), 1),
    (Case(1, 4, 1, 2, "interleaved_1f1b", "-", 4, "cohere", "everything"), 1),
    (Case(2, 1, 2, 1, "-", "zigzag", 2, "scaled_llama", "everything"), 2),
    (Case(2, 1, 2, 1, "-", "zigzag", 2, "scaled_llama", "everything"), 3),
    (Case(2, 2, 2, 1, "zbv", "balanced", 2, "cohere", "everything"), 1),
    (Case(4, 2, 1, 1, "1f1b", "-", 2, "llama", "input"), 1),
    (Case(2, 1, 2, 2, "-", "balanced", 1, "llama", "everything"), 2),
)


@pytest.fixture(autouse=True, scope="module")
def composed() -> None:
    """Ranks find it made."""
    small_configuration()


# Losses and gradient norms of all steps, and every tensor of this rank's stage after the last one.
# And the first step's losses by source.
Trained = tuple[list[float], list[float], dict[str, dict[str, Tensor]], tuple[float, ...]]


def three_steps(world: World, case: Case, zero_stage: int) -> Trained:
    """This rank's part of it. Collective."""
    parallel = case.parallel(zero_stage)
    mesh = arrange(world, parallel.topology(world.world_size))
    trainer = trainer_of(mesh, case.config, parallel, keep_for_backward=case.keep)
    found = [step(trainer, mesh, case, parallel, number) for number in range(STEPS)]
    assert all(result.applied for result in found)
    trained = weights(trainer)
    trainer.engine.close()
    losses, norms = [r.loss for r in found], [r.gradient_norm for r in found]
    return losses, norms, trained, found[0].loss_by_source


@cache
def results(
    cases: tuple[tuple[Case, int], ...],
) -> dict[tuple[Case, int], list[Trained]]:
    """What every rank found for each of some cases of one size: one world that re-forms from case to case."""

    def work(rank: int, world_size: int) -> Any:
        world = start(CPU, 60).world
        return [three_steps(world, case, zero_stage) for case, zero_stage in cases]

    found = run_on_ranks(work, cases[0][0].ranks)
    return {case: [of_rank[number] for of_rank in found] for number, case in enumerate(cases)}


def of_one_size(cases: tuple[tuple[Case, int], ...], ranks: int) -> tuple[tuple[Case, int], ...]:
    """Those that run in one world."""
    return tuple(one for one in cases if one[0].ranks == ranks)


def check(case: Case, results: list[Trained]) -> None:
    """Every rank's three steps against the oracle's, in order of time."""
    losses, norms, expected = oracle(case)
    by_source = pytest.approx(losses_by_source(case), rel=2e-6, nan_ok=True)
    for found_losses, found_norms, found, found_by_source in results:
        for number in range(STEPS):
            # float32: a few units in the last place over sums of some hundred terms.
            for name, ours, truth, tolerance in (
                ("loss", found_losses[number], losses[number], 2e-6),
                ("gradient norm", found_norms[number], norms[number], 1e-5),
            ):
                error = abs(ours - truth) / truth
                assert error <= tolerance, f"{name} of step {number + 1} {error:.1e}; {case}"
        for name, tensors_of in found.items():
            torch.testing.assert_close(
                tensors_of["weight"], expected[name], rtol=1e-4, atol=2e-6, msg=f"{name} {case}"
            )
        assert found_by_source == by_source, case


@pytest.mark.parametrize(("case", "zero_stage"), STEP_CASES, ids=str)
def test_three_steps_equal_one_process(case: Case, zero_stage: int) -> None:
    check(case, results(of_one_size(STEP_CASES, case.ranks))[case, zero_stage])


@pytest.mark.slow
@pytest.mark.parametrize(("case", "zero_stage"), OTHER_STEP_CASES, ids=str)
def test_three_steps_of_the_other_cases_equal_one_process(case: Case, zero_stage: int) -> None:
    check(case, results(of_one_size(OTHER_STEP_CASES, case.ranks))[case, zero_stage])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stage_with_the_head_alone_takes_its_steps(precision: str) -> None:
    """Tied, it trains one norm: an optimizer group less than the other stages has, if nobody cared."""
    case = Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "everything")
    parallel = replace(case.parallel(), pipeline_split=[7, 0])

    def work(rank: int, world_size: int) -> list[float]:
        mesh = start(CPU, 60, parallel.topology(world_size))
        trainer = trainer_of(mesh, MODELS["cohere"], parallel, precision=precision)
        found = [step(trainer, mesh, case, parallel, number) for number in range(STEPS)]
        return [value for result in found for value in (result.loss, result.gradient_norm)]

    losses, norms, _ = oracle(case)
    expected = [value for pair in zip(losses, norms, strict=True) for value in pair]
    tolerance = 1e-5 if precision == "float32" else 4e-2
    for found in run_on_ranks(work, 2):
        assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_bfloat16_stages_accumulate_in_float32(schedule: str) -> None:
    """32 equal micro-batches give the gradient of two; summed in bfloat16 they would not, by 1e-2."""
    model = replace(MODELS["cohere"], num_layers=3)
    parallel = ParallelConfig(pipeline=2, pipeline_schedule=schedule)

    def work(rank: int, world_size: int) -> list[float]:
        mesh = start(CPU, 60, parallel.topology(world_size))
        norms = []
        for copies in (2, 32):
            trainer = trainer_of(mesh, model, parallel, precision="bfloat16")
            one = streams(STEP_CASES[0][0])[0]
            shape = BatchShape(TOKENS, copies * TOKENS, TOKENS, (1.0,))
            batch = GlobalBatch(shape, (one,) * copies, (copies * one.valid_tokens,), 0, {})
            stage = Stage("only", 0, 0, STEPS, shape, BaseCurve(((0, BASE),)), None)
            at = Point(stage, RATE, BASE, model)
            result = optimizer_step(trainer, mesh, batch, point=at, stop=False)
            norms.append(result.gradient_norm)
            trainer.engine.close()
        return norms

    for few, many in run_on_ranks(work, 2):
        assert many == pytest.approx(few, rel=1e-5)


# Every value of each axis, ZeRO stage and precision; then, in `make test-all`, two more on two axes.
SPOILT = (
    (ParallelConfig(tensor=2, sequence=2, zero_stage=3), "bfloat16"),
    (ParallelConfig(tensor=2, sequence=2, zero_stage=2), "float32"),
    (ParallelConfig(pipeline=4, zero_stage=1), "bfloat16"),
    (ParallelConfig(pipeline=2, zero_stage=1, pipeline_schedule="zbv"), "float32"),
)
OTHERS_SPOILT = (
    (ParallelConfig(tensor=2, sequence=2, zero_stage=1), "float32"),
    (ParallelConfig(pipeline=2, sequence=2, zero_stage=1), "bfloat16"),
)


@pytest.mark.parametrize(
    "cases",
    [SPOILT, pytest.param(OTHERS_SPOILT, marks=pytest.mark.slow)],
    ids=["each", "others"],
)
def test_a_nan_in_one_gradient_of_one_rank_leaves_all_weights_untouched(
    cases: tuple[tuple[ParallelConfig, str], ...],
) -> None:
    """The loss is finite and so are all gradients but one: only the global norm can tell."""
    case = Case(1, 1, 1, 1, "-", "-", 4, "cohere", "everything")
    model = replace(MODELS["cohere"], num_layers=4)

    def work(rank: int, world_size: int) -> list[str]:
        world = start(CPU, 60).world
        wrong = []
        for number, (parallel, precision) in enumerate(cases):
            mesh = arrange(world, parallel.topology(world_size))
            trainer = trainer_of(mesh, model, parallel, precision=precision)
            step(trainer, mesh, case, parallel, 0)
            before = everything(trainer, mesh)
            handle = None
            if rank == (0, world_size - 1)[number % 2]:
                named = trainer.engine.parameters.named
                one = next(p for n, p in named.items() if "down_proj" in n)
                handle = one.register_hook(lambda gradient: gradient * float("nan"))
            spoilt = step(trainer, mesh, case, parallel, 1)
            if handle is not None:
                handle.remove()
            wrong += differences(everything(trainer, mesh), before, parallel)
            after = step(trainer, mesh, case, parallel, 2)
            if (spoilt.applied, after.applied) != (False, True) or after.loss != after.loss:
                wrong.append(f"{parallel}: {spoilt} {after}")
            if trainer.engine.optimizer_steps().most != 2:
                wrong.append(f"{parallel}: {trainer.engine.optimizer_steps().most} steps of AdamW")
            trainer.engine.close()
        return wrong

    for wrong in run_on_ranks(work, 4):
        assert wrong == []


LAYOUTS = (
    ParallelConfig(tensor=2, sequence=2, zero_stage=1),
    ParallelConfig(pipeline=2, sequence=2, zero_stage=1, sequence_layout="balanced"),
    ParallelConfig(tensor=2, zero_stage=3),
    ParallelConfig(sequence=4, zero_stage=2),
    ParallelConfig(tensor=2, pipeline=2, zero_stage=1, pipeline_schedule="zbv"),
    ParallelConfig(pipeline=4, zero_stage=1),
)


@pytest.mark.parametrize(
    ("model", "precision", "layouts"),
    [
        ("cohere", "float32", LAYOUTS[2:]),
        ("llama", "bfloat16", LAYOUTS[:3]),
        pytest.param("cohere", "float32", LAYOUTS, marks=pytest.mark.slow),
        pytest.param("llama", "bfloat16", LAYOUTS, marks=pytest.mark.slow),
    ],
    ids=["cohere-float32-four", "llama-bfloat16-three", "cohere-float32-all", "llama-bfloat16-all"],
)
def test_a_checkpoint_moves_between_layouts_in_one_process(
    model: str, precision: str, layouts: tuple[ParallelConfig, ...], tmp_path: Path
) -> None:
    """Each layout in turn: built anew in the same processes, loaded, compared, stepped, saved."""
    case = Case(1, 1, 1, 1, "-", "-", 4, model, "everything")
    config = replace(MODELS[model], num_layers=5)

    def work(rank: int, world_size: int) -> list[str]:
        mesh = start(CPU, 60)
        before: dict[str, dict[str, Tensor]] = {}
        index = Index(files={}, tensors={})
        wrong: list[str] = []
        for number, parallel in enumerate(layouts):
            mesh = arrange(mesh.world, parallel.topology(world_size))
            trainer = trainer_of(mesh, config, parallel, precision=precision)
            if number > 0:
                tensors.read(
                    trainer.engine, tmp_path / str(number - 1), index, steps=StepCounts(number)
                )
                wrong += differences(everything(trainer, mesh), before, parallel)
                assert trainer.engine.optimizer_steps().most == number
            result = step(trainer, mesh, case, parallel, number)
            assert result.applied
            before = everything(trainer, mesh)
            (tmp_path / str(number)).mkdir(exist_ok=True)
            owned = tensors.gather_owned(trainer.engine)
            index = tensors.write(owned, tmp_path / str(number), mesh)
            trainer.engine.close()
        return wrong

    for wrong in run_on_ranks(work, 4):
        assert wrong == []
