"""The checks of groups see what they are there for: each planted fault makes the one of its kind fail.

Three steps of the engine in float32, on two ranks, against torch's AdamW with a group for every parameter.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from parallel.config import ParallelConfig
from parallel.engine.engine import TrainingEngine
from parallel.engine.groups import ORDINARY, GroupSettings
from parallel.engine.inner import set_rates
from parallel.engine.training import Training
from parallel.mesh import World, arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import (
    CPU,
    everything,
    oracle,
    small_configuration,
    step,
    trainer_of,
)
from tests.parity.group_cases import training_of
from tests.parity.layout_cases import MODELS
from tests.parity.test_parameter_groups import CASE, GROUPS, SMALL, grouped

pytestmark = pytest.mark.slow
Patch = pytest.MonkeyPatch
Found = tuple[list[float], dict[str, Tensor]]
STILL = GroupSettings(1e-30, 0.0)


def frozen_weights_are_decayed(patch: Patch) -> None:
    real = TrainingEngine.step

    def decaying(engine: TrainingEngine, rate: float, *groups: Any) -> Any:
        for parameter in engine.parameters.frozen.values():
            parameter.data.mul_(1 - 0.2 * rate)
        return real(engine, rate, *groups)

    patch.setattr(TrainingEngine, "step", decaying)


def factors_of_groups_are_ignored(patch: Patch) -> None:
    def ordinarily(inner: Any, config: Any, rate: float, settings: Mapping[str, Any]) -> None:
        set_rates(inner, config, rate, dict.fromkeys(settings, ORDINARY))

    patch.setattr("parallel.engine.engine.set_rates", ordinarily)


def frozen_gradients_are_in_the_norm(patch: Patch) -> None:
    """They do not move their weights: their rate is next to nothing."""
    real = training_of

    def moving(*given: Any) -> Training:
        training = real(*given)
        settings = {n: STILL if s.frozen else s for n, s in training.settings.items()}
        return replace(training, settings=settings)

    patch.setattr("tests.parity.test_group_faults.training_of", moving)


FAULTS: dict[Callable[[Patch], None], str] = {
    frozen_weights_are_decayed: "frozen embedding.weight",
    factors_of_groups_are_ignored: "layers.1.attention.v_proj.weight",
    frozen_gradients_are_in_the_norm: "gradient norm",
}


def three_steps(world: World) -> Found:
    parallel = ParallelConfig(tensor=2)
    mesh = arrange(world, parallel.topology(world.world_size))
    trainer = trainer_of(mesh, SMALL, parallel, training=training_of(SMALL, GROUPS))
    norms = [step(trainer, mesh, CASE, parallel, number).gradient_norm for number in range(3)]
    weights = {name: kinds["weight"] for name, kinds in everything(trainer, mesh).items()}
    trainer.engine.close()
    return norms, weights


def wrong(found: Found, truth: Any) -> list[str]:
    """Everything that differs, by name."""
    training, (_, norms, expected) = training_of(SMALL, GROUPS), truth
    names = ["gradient norm"] * (found[0] != pytest.approx(norms, rel=1e-5))
    for name, weight in found[1].items():
        if training.is_frozen(name):
            names += [f"frozen {name}"] * (not torch.equal(weight, expected[name]))
        elif not torch.allclose(weight, expected[name], rtol=1e-4, atol=2e-6):
            names.append(name)
    return names


def test_each_planted_fault_is_seen_and_nothing_is_without_one() -> None:
    small_configuration()
    with pytest.MonkeyPatch.context() as outer:
        outer.setitem(MODELS, "small", SMALL)
        truth = oracle(CASE, grouped(training_of(SMALL, GROUPS)))

        def work(rank: int, world_size: int) -> list[Found]:
            world, found = start(CPU, 60).world, []
            for plant in FAULTS:
                with pytest.MonkeyPatch.context() as patch:
                    plant(patch)
                    found.append(three_steps(world))
            return [*found, three_steps(world)]

        for *faulty, sound in run_on_ranks(work, 2):
            assert wrong(sound, truth) == []
            for shows, found in zip(FAULTS.values(), faulty, strict=True):
                assert shows in wrong(found, truth), shows
