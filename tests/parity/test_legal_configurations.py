"""Every legal configuration takes a real optimizer step in each of its stages, on as many ranks as it wants.

Runs that share a number of ranks are drawn together and share one world, which re-forms from run to run.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.batch import RankReader
from data.labels import EveryTarget
from data.loader import make_global_batch
from data.packing.planner import BatchPlanner
from model.parameters import parameter_names
from parallel.engine.groups import groups_of
from parallel.engine.training import Training
from parallel.mesh import World, arrange, start
from ranks import run_on_ranks
from tests.parity.drawn_runs import Drawn, drawn_runs
from tests.parity.legality import is_legal
from train.build_trainer import build_trainer, dealer
from train.configuration.schema import RunConfig
from train.schedule.stages import Schedule, Stage, build_schedule
from train.step import optimizer_step
from train.trainer import Trainer

# Runs that share a world, by its ranks: 24 in all, and with the profile `soak` 240.
TOGETHER = {1: 4, 2: 6, 3: 4, 4: 10}
WORLDS = settings().max_examples // 100


class Documents(EveryTarget):
    """Generated documents of 2 to 40 tokens of any vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self.num_documents = 50
        self._vocab_size = vocab_size

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return 2 + documents * 7 % 39

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return np.random.default_rng(document).integers(self._vocab_size, size=41)[start:][:length]


@pytest.mark.parametrize("ranks", TOGETHER)
def test_every_legal_run_takes_a_step_in_each_of_its_stages(ranks: int) -> None:
    legal, size = drawn_runs(ranks).filter(lambda d: is_legal(d.run, d.ranks)), TOGETHER[ranks]

    # Hypothesis begins with the simplest example, which is to be no run rather than the simplest run many times.
    @settings(max_examples=1 + WORLDS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.just([]) | st.lists(legal, min_size=size, max_size=size))
    def take(runs: list[Drawn]) -> None:
        if not runs:
            return

        def work(rank: int, world_size: int) -> list[str]:
            world = start(torch.device("cpu"), 60).world
            return [wrong for drawn in runs for wrong in take_steps(world, drawn)]

        for wrong in run_on_ranks(work, ranks):
            assert wrong == []

    take()


def take_steps(world: World, drawn: Drawn) -> list[str]:
    """One step of every stage of the run; what came out wrong. Collective."""
    try:
        config = drawn.config
        schedule, mistakes = build_schedule(config)
        assert schedule is not None, mistakes
        documents = Documents(config.model.vocab_size)
        planner = BatchPlanner(
            [documents], seed=3, method=config.data.packing, look_ahead=config.data.look_ahead
        )
        found = [
            take_step(world, config, schedule, stage, planner, documents)
            for stage in schedule.stages
        ]
    except Exception as error:
        raise RuntimeError(f"it could not take a step: {drawn}") from error
    return [f"{wrong}: {drawn}" for wrong in found if wrong]


def take_step(
    world: World,
    config: RunConfig,
    schedule: Schedule,
    stage: Stage,
    planner: BatchPlanner,
    documents: Documents,
) -> str:
    """The stage's first step, in its own layout; "" if loss and norm are finite and weights that train moved alone."""
    mesh = arrange(world, stage.parallel.topology(world.world_size))
    names = parameter_names(config.model, range(config.model.num_layers))
    training = Training(groups_of(names, config.model, config.optimizer.groups), stage.groups)
    trainer = build_trainer(
        config,
        mesh,
        stage.parallel,
        sequence_length=stage.shape.sequence_length,
        training=training,
    )
    deal = dealer(config.model, mesh, stage.parallel)
    reader = RankReader([documents], 1, mesh.dp_rank, mesh.dp_size, deal)
    batch = make_global_batch(planner, next(schedule.shapes(stage.start)), reader)
    before = weights(trainer)
    point = schedule.at(stage.start)
    result = optimizer_step(trainer, mesh, batch, point=point, stop=False)
    after = weights(trainer)
    trainer.engine.close()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    trains = {name for name in before if not training.is_frozen(name)}
    finite = math.isfinite(result.loss) and math.isfinite(result.gradient_norm) and result.applied
    right = moved <= trains and bool(moved) == (point.learning_rate > 0 and bool(trains))
    if finite and result.loss > 0 and right:
        return ""
    return f"{result}, weights moved: {moved}, rate {point.learning_rate}"


def weights(trainer: Trainer) -> dict[str, Any]:
    """The float32 weights of this rank's stage, whole. Collective."""
    engine = trainer.engine
    return {name: engine.full_tensors(name)["weight"].clone() for name in engine.parameters.named}
