"""The health of layers is that of one process in float64, under every layout, and measuring it changes no bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

from parallel.engine.training import ORDINARILY, Training
from parallel.mesh import Mesh, World, arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import CPU, everything, small_configuration, step, trainer_of
from tests.parity.health_oracle import STEPS, Health, oracle
from tests.parity.layout_cases import Case
from train.configuration.schema import LoggingConfig
from train.health.measured import begin_measuring, measured_entries
from train.trainer import Trainer

# Loss, gradient norm and weights of training.
Numbers = tuple[list[float], dict[str, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Measured:
    """A case and how it trains. keys: how ring layers get keys."""

    case: Case
    zero_stage: int = 1
    keys: str = "auto"
    compiled: str = "never"


ONE = Measured(Case(1, 1, 1, 1, "-", "-", 2, "llama", "input"), 0)
TWO = (
    Measured(Case(2, 1, 1, 1, "-", "-", 2, "llama", "attention")),
    Measured(Case(1, 1, 2, 1, "-", "balanced", 1, "cohere", "attention"), 3, "ring"),
    Measured(Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "input")),
)
OTHER_TWO = (
    Measured(Case(2, 1, 1, 1, "-", "-", 1, "cohere", "input"), 3),
    Measured(Case(1, 1, 2, 1, "-", "balanced", 2, "cohere", "attention"), 2, "exchange"),
    Measured(Case(1, 1, 2, 1, "-", "zigzag", 1, "llama", "input"), 3, "exchange"),
    Measured(Case(1, 2, 1, 1, "zbv", "-", 4, "llama", "everything")),
    Measured(Case(1, 1, 1, 2, "-", "-", 1, "llama", "everything"), 0),
    Measured(Case(1, 1, 1, 2, "-", "-", 2, "gated", "everything"), 2),
)
FOUR = (
    Measured(Case(2, 1, 2, 1, "-", "zigzag", 2, "llama", "input"), 1, "ring"),
    Measured(Case(2, 2, 1, 1, "interleaved_1f1b", "-", 2, "cohere", "everything")),
    Measured(Case(1, 2, 2, 1, "1f1b", "balanced", 2, "normed", "attention"), 1, "exchange"),
    Measured(Case(1, 1, 2, 2, "-", "contiguous", 1, "cohere", "input"), 3, "ring"),
    Measured(Case(4, 1, 1, 1, "-", "-", 1, "cohere", "everything"), 2),
    Measured(Case(2, 1, 1, 2, "-", "-", 2, "gated", "everything"), 3),
)


@pytest.fixture(autouse=True, scope="module")
def measuring() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_configuration().logging, "layer_steps", 1)
        yield


def trained(
    mesh: Mesh, one: Measured, every: int, training: Training = ORDINARILY
) -> tuple[list[Health], Numbers]:
    """The health at the steps that are measured, and what training gave. Collective."""
    case, parallel = one.case, one.case.parallel(one.zero_stage)
    trainer = trainer_of(
        mesh, case.config, parallel, keep_for_backward=case.keep, training=training
    )
    health, numbers = list[Health](), list[float]()
    for number in range(STEPS):
        found, result = measured_step(trainer, mesh, one, number, every)
        health += [found] if found else []
        numbers += [result.loss, result.gradient_norm]
    weights = everything(trainer, mesh)
    trainer.engine.close()
    return health, (numbers, weights)


def measured_step(
    trainer: Trainer, mesh: Mesh, one: Measured, number: int, every: int = 1, **given: Any
) -> tuple[Health, Any]:
    """The health of a step, and its result. Collective."""
    measured = begin_measuring(trainer, LoggingConfig(layer_steps=every), number + 1)
    parallel = one.case.parallel(one.zero_stage)
    result = step(trainer, mesh, one.case, parallel, number, **given)
    entries = measured_entries(measured, trainer, mesh, one.case.at_stage)
    return entries.get("layers", {}), result


def with_and_without(world: World, one: Measured) -> tuple[list[Health], Numbers, Numbers]:
    """What training gives with every step measured, and with none. Collective."""
    with pytest.MonkeyPatch.context() as patch:
        if one.keys != "auto":
            few = one.keys == "exchange"
            patch.setattr("parallel.sequence.route.needs_few_keys", lambda *_: few)
        mesh = arrange(world, one.case.parallel().topology(world.world_size))
        health, measured = trained(mesh, one, every=1)
        none, plain = trained(mesh, one, every=0)
        assert none == []
        return health, measured, plain


@cache
def results(cases: tuple[Measured, ...]) -> list[list[Any]]:
    def work(rank: int, world_size: int) -> list[Any]:
        world = start(CPU, 60).world
        return [with_and_without(world, one) for one in cases]

    return run_on_ranks(work, cases[0].case.ranks)


def check(one: Measured, health: list[Health]) -> None:
    """Every number of every step against the oracle's."""
    for number, (found, truth) in enumerate(zip(health, oracle(one.case), strict=True)):
        assert found.keys() == truth.keys(), one
        for place, numbers in truth.items():
            kind = found[place]["kind"]
            assert (
                kind == (one.case.config.layer_pattern * 7)[int(place)]
                if place.isdigit()
                else place
            )
            for name, value in numbers.items():
                error = abs(found[place][name] - value) / value
                assert error <= 1e-5, f"{name} of {place}, step {number + 1}: {error:.1e}; {one}"


def check_with_and_without(one: Measured, of_ranks: list[Any]) -> None:
    for health, measured, plain in of_ranks:
        check(one, health)
        assert measured[0] == plain[0]
        for name, kinds in plain[1].items():
            assert all(torch.equal(kinds[kind], measured[1][name][kind]) for kind in kinds)


@pytest.mark.parametrize("one", [ONE], ids=str)
def test_on_one_rank_it_is_that_of_its_definition(one: Measured) -> None:
    check_with_and_without(one, [found[0] for found in results((ONE,))])


@pytest.mark.parametrize("one", TWO, ids=str)
def test_on_two_ranks_it_is_that_of_one_process_and_changes_no_bit(one: Measured) -> None:
    check_with_and_without(one, [found[TWO.index(one)] for found in results(TWO)])


@pytest.mark.slow
@pytest.mark.parametrize("one", OTHER_TWO, ids=str)
def test_other_layouts_of_two_ranks_are_as_one_process_too(one: Measured) -> None:
    check_with_and_without(one, [found[OTHER_TWO.index(one)] for found in results(OTHER_TWO)])


@pytest.mark.slow
@pytest.mark.parametrize("one", FOUR, ids=str)
def test_on_four_ranks_it_is_that_of_one_process_and_changes_no_bit(one: Measured) -> None:
    check_with_and_without(one, [found[FOUR.index(one)] for found in results(FOUR)])
