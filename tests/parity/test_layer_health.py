"""The health of layers is that of one process in float64, under every layout, and measuring it changes no bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch

from parallel.engine.training import ORDINARILY, Training
from parallel.mesh import Mesh, World, arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import CPU, everything, small_configuration, step, trainer_of
from tests.parity.group_cases import TRAINED, training_of
from tests.parity.health_oracle import STEPS, Health, norms, oracle
from tests.parity.layout_cases import Case
from train.configuration.schema import LoggingConfig
from train.health.measured import begin_measuring, measured_entries
from train.trainer import Trainer

Weights = dict[str, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Measured:
    """A case and how it trains. keys: how ring layers get keys. groups: of TRAINED; empty: all trains.

    backend: of attention, where no sequence axis cuts the stream.
    """

    case: Case
    zero_stage: int = 1
    keys: str = "auto"
    groups: str = ""
    compiled: str = "never"
    backend: str = "dense"

    @property
    def training(self) -> Training:
        model = self.case.config
        return training_of(model, TRAINED[self.groups]) if self.groups else ORDINARILY


class Found(NamedTuple):
    """What a rank found: the health at every step, and losses, gradient norms and weights with it and without it.

    plain: None where it did not train without measuring.
    """

    health: list[Health]
    measured: tuple[list[float], Weights]
    plain: tuple[list[float], Weights] | None


TENSOR = Measured(Case(2, 1, 1, 1, "-", "-", 1, "llama", "attention"))
RING = Measured(Case(1, 1, 2, 1, "-", "balanced", 1, "cohere", "attention"), 3, "ring")
STAGES = Measured(Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "input"), backend="banded")
FROZEN = Measured(STAGES.case, 1, groups="one layer")
ONE = (
    Measured(Case(1, 1, 1, 1, "-", "-", 2, "llama", "input"), 0),
    Measured(Case(1, 1, 1, 1, "-", "-", 2, "cohere", "input"), compiled="always", backend="banded"),
    Measured(Case(1, 1, 1, 1, "-", "-", 2, "llama", "attention", "rows"), backend="banded"),
)
TWO = (
    Measured(Case(2, 1, 1, 1, "-", "-", 1, "cohere", "input"), 3),
    Measured(Case(1, 1, 2, 1, "-", "balanced", 2, "cohere", "attention"), 2, "exchange"),
    Measured(Case(1, 1, 2, 1, "-", "zigzag", 1, "llama", "input"), 3, "exchange"),
    Measured(Case(1, 2, 1, 1, "zbv", "-", 4, "llama", "everything")),
    Measured(Case(1, 1, 2, 1, "-", "zigzag", 2, "cohere", "input", "rows", "ladder"), 1, "ring"),
    Measured(Case(1, 2, 1, 1, "zbv", "-", 4, "cohere", "everything"), groups="full layers"),
    Measured(Case(1, 1, 1, 2, "-", "-", 1, "llama", "everything"), 0),
    Measured(Case(1, 1, 1, 2, "-", "-", 2, "gated", "everything"), 2),
    Measured(Case(1, 1, 1, 2, "-", "-", 1, "llama", "input"), 3, groups="all but feed-forwards"),
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
    """Ranks build trainers that can measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_configuration().logging, "layer_steps", 1)
        yield


def build(mesh: Mesh, one: Measured, **train: Any) -> Trainer:
    return trainer_of(
        mesh,
        replace(one.case.config, attention_backend=one.backend),
        one.case.parallel(one.zero_stage),
        keep_for_backward=one.case.keep,
        training=one.training,
        compile_regions=one.compiled,
        **train,
    )


def measured_step(
    trainer: Trainer, mesh: Mesh, one: Measured, number: int, every: int = 1, **given: Any
) -> tuple[Health, Any]:
    """The health of a step (empty if it is not measured), and its result. Collective."""
    measured = begin_measuring(trainer, LoggingConfig(layer_steps=every), number + 1)
    parallel = one.case.parallel(one.zero_stage)
    result = step(trainer, mesh, one.case, parallel, number, **given)
    entries = measured_entries(measured, trainer, mesh, one.case.at_stage)
    return entries.get("layers", {}), result


def trained(
    mesh: Mesh, one: Measured, every: int, *, weights: bool
) -> tuple[list[Health], list[float], Weights]:
    """The health at the steps that are measured, and what training gives; weights: with them. Collective."""
    trainer = build(mesh, one)
    health, numbers = list[Health](), list[float]()
    for number in range(STEPS):
        layers, result = measured_step(trainer, mesh, one, number, every)
        health += [layers] if layers else []
        numbers += [result.loss, result.gradient_norm]
    found = everything(trainer, mesh) if weights else {}
    trainer.engine.close()
    return health, numbers, found


def find(world: World, one: Measured, *, plain: bool = True) -> Found:
    """plain: train without measuring too. Collective."""
    with pytest.MonkeyPatch.context() as patch:
        if one.keys != "auto":
            few = one.keys == "exchange"
            patch.setattr("parallel.sequence.route.needs_few_keys", lambda *_: few)
        mesh = arrange(world, one.case.parallel().topology(world.world_size))
        health, *measured = trained(mesh, one, every=1, weights=plain)
        if not plain:
            return Found(health, tuple(measured), None)
        none, *unmeasured = trained(mesh, one, every=0, weights=True)
        assert none == []
        return Found(health, tuple(measured), tuple(unmeasured))


def check(one: Measured, found: Found) -> None:
    """Every number of every step against the oracle's, and the bits of training."""
    truths = oracle(one.case, one.training.frozen)
    for number, (health, truth) in enumerate(zip(found.health, truths, strict=True)):
        check_step(one, health, truth, f"step {number + 1}; {one}")
    if found.plain is not None:
        (numbers, weights), (plain_numbers, plain) = found.measured, found.plain
        assert numbers == plain_numbers
        for name, kinds in plain.items():
            assert all(torch.equal(kinds[kind], weights[name][kind]) for kind in kinds), name


def check_step(one: Measured, health: Health, truth: Health, where: str) -> None:
    assert health.keys() == truth.keys(), where
    pattern = one.case.config.layer_pattern
    for place, numbers in truth.items():
        kind = pattern[int(place) % len(pattern)] if place.isdigit() else place
        assert health[place]["kind"] == kind
        for name, value in numbers.items():
            # float32 against float64: a few units in the last place over sums of some hundred terms.
            wanted = None if value is None else pytest.approx(value, rel=1e-5)
            assert health[place][name] == wanted, f"{name} of {place}, {where}"


@cache
def results(cases: tuple[Measured, ...]) -> list[list[Found]]:
    """Of every rank and case: one world for all of a size."""

    def work(rank: int, world_size: int) -> list[Found]:
        world = start(CPU, 60).world
        return [find(world, one) for one in cases]

    return run_on_ranks(work, cases[0].case.ranks)


def check_masters(world: World, zero_stage: int) -> None:
    """In bfloat16: norms and ratios against float32 masters before and after a step. Collective."""
    one = Measured(Case(1, 1, 1, 2, "-", "-", 1, "cohere", "input"), zero_stage)
    mesh = arrange(world, one.case.parallel().topology(world.world_size))
    trainer = build(mesh, one, precision="bfloat16")
    for number in range(STEPS):
        before = {name: kinds["weight"] for name, kinds in everything(trainer, mesh).items()}
        health, result = measured_step(trainer, mesh, one, number)
        after = {name: kinds["weight"] for name, kinds in everything(trainer, mesh).items()}
        changes = norms({name: (after[name] - before[name]).double() for name in after})
        for place, norm in norms({name: weight.double() for name, weight in after.items()}).items():
            # The new weights are rounded to float32, the formula's are not.
            ratio = pytest.approx(changes[place] / norm, rel=1e-5)
            assert health[place]["update_to_weight"] == ratio, f"{place} {zero_stage}"
        whole = sum(numbers["gradient_norm"] ** 2 for numbers in health.values()) ** 0.5
        assert whole == pytest.approx(result.gradient_norm, rel=1e-5)
    trainer.engine.close()


# What somebody could get wrong, and the numbers that show it.
Fault = Callable[[pytest.MonkeyPatch], None]


def replicated_parameters_count_on_every_rank(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("parallel.engine.step_squares.StepSquares._counts", lambda *_: True)


def ranks_are_not_added_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Mesh, "gather_world", lambda mesh, row: row.repeat(mesh.world_size, 1))


def the_largest_is_taken_before_the_mask(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("model.attention.largest_product._hide_future", lambda *_: None)
    patch.setattr("model.attention.dense._largest", lambda products, *_: products.amax())


FAULTS: dict[Fault, str] = {
    replicated_parameters_count_on_every_rank: "gradient_norm of 0",
    ranks_are_not_added_up: "gradient_norm of embedding",
    the_largest_is_taken_before_the_mask: "largest_attention_logit of",
}


class Quick(NamedTuple):
    """What the world of two ranks of `make test` finds."""

    tensor: Found
    ring: Found
    stages: Found
    frozen: Found
    # By fault: of tensor and ring, at their first step.
    faulty: dict[str, list[Health]]
    skipped: Health
    not_finite: Health


def not_finite(world: World) -> Health:
    """The health of a step in which a weight of layer 5 is not a number. Collective."""
    mesh = arrange(world, STAGES.case.parallel().topology(world.world_size))
    trainer = build(mesh, STAGES)
    weight = trainer.engine.parameters.named.get("layers.5.attention.q_proj.weight")
    if weight is not None:
        weight.detach().fill_(torch.nan)
    health, result = measured_step(trainer, mesh, STAGES, 0)
    assert not result.applied
    trainer.engine.close()
    return health


@cache
def quick() -> list[Quick]:
    def work(rank: int, world_size: int) -> Quick:
        world = start(CPU, 60).world
        faulty = {fault.__name__: list[Health]() for fault in FAULTS}
        for one in (TENSOR, RING):
            mesh = arrange(world, one.case.parallel().topology(world_size))
            trainer = build(mesh, one)
            measured = begin_measuring(trainer, LoggingConfig(layer_steps=1), 1)
            with pytest.MonkeyPatch.context() as patch:
                the_largest_is_taken_before_the_mask(patch)
                step(trainer, mesh, one.case, one.case.parallel(one.zero_stage), 0)
            for fault in FAULTS:
                with pytest.MonkeyPatch.context() as patch:
                    fault(patch)
                    entries = measured_entries(measured, trainer, mesh, one.case.at_stage)
                    faulty[fault.__name__].append(entries["layers"])
            skipped, _ = measured_step(trainer, mesh, one, 1, limit=0.0)
            trainer.engine.close()
        plain = [find(world, one, plain=one is RING) for one in (TENSOR, RING, STAGES, FROZEN)]
        return Quick(*plain, faulty, skipped, not_finite(world))

    return run_on_ranks(work, 2)


def test_with_tensor_parallelism_it_is_that_of_one_process() -> None:
    for found in quick():
        check(TENSOR, found.tensor)


def test_with_a_ring_and_zero_3_it_is_that_of_one_process_and_changes_no_bit() -> None:
    for found in quick():
        check(RING, found.ring)


def test_with_a_pipeline_it_is_that_of_one_process_also_where_most_is_frozen() -> None:
    for found in quick():
        check(STAGES, found.stages)
        check(FROZEN, found.frozen)


def test_a_skipped_step_changes_nothing_and_has_activations() -> None:
    for found in quick():
        layer = found.skipped["0"]
        assert (layer["gradient_norm"], layer["update_to_weight"]) == (None, 0.0)
        assert layer["activation_rms"] > 0.0 and layer["largest_attention_logit"] > 0.0


def test_a_step_that_is_not_finite_shows_the_layer_where_that_began() -> None:
    for found in quick():
        numbers = found.not_finite.values()
        assert {(one["gradient_norm"], one["update_to_weight"]) for one in numbers} == {(None, 0.0)}
        for name in ("activation_rms", "largest_attention_logit"):
            finite = [found.not_finite[str(layer)][name] is not None for layer in range(7)]
            assert finite == [True] * 5 + [False] * 2


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_noticed(fault: Fault) -> None:
    for found in quick():
        with pytest.raises(AssertionError, match=FAULTS[fault]):
            for one, health in zip((TENSOR, RING), found.faulty[fault.__name__], strict=True):
                check_step(one, health, oracle(one.case)[0], "step 1")


@pytest.mark.slow
def test_in_bfloat16_updates_are_those_of_the_float32_weights_under_every_zero_stage() -> None:
    def work(rank: int, world_size: int) -> None:
        world = start(CPU, 60).world
        for zero_stage in (1, 2, 3):
            check_masters(world, zero_stage)

    run_on_ranks(work, 2)


@pytest.mark.slow
@pytest.mark.parametrize("one", ONE, ids=str)
def test_on_one_rank_it_is_that_of_its_definition(one: Measured) -> None:
    check(one, results(ONE)[0][ONE.index(one)])


@pytest.mark.slow
@pytest.mark.parametrize("one", TWO, ids=str)
def test_other_layouts_of_two_ranks_are_as_one_process_too(one: Measured) -> None:
    for found in results(TWO):
        check(one, found[TWO.index(one)])


@pytest.mark.slow
@pytest.mark.parametrize("one", FOUR, ids=str)
def test_layouts_of_four_ranks_are_as_one_process_too(one: Measured) -> None:
    for found in results(FOUR):
        check(one, found[FOUR.index(one)])
