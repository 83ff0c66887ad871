"""One optimizer step as a run takes it: `train/step.py` over DeepSpeed's ZeRO-1 in a world of one process.

Weights in bfloat16, gradients summed in float32, masters and moments in float32: 20 bytes a parameter.
Only the initial weights are other ones than a run's, drawn on the device (`presets.Draw`).
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from plain_stack import LEARNING_RATE
from presets import ROPE_BASE, device_draw
from torch import Tensor

from data.loader import GlobalBatch
from data.packing.spans import BatchShape
from model.attention.core import choose_core
from model.config import ModelConfig
from model.flops import parameter_count
from parallel import mesh as world
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.engine.engine import TrainingEngine
from parallel.engine.materialise import materialise
from parallel.engine.settings import zero_settings
from parallel.mesh import Mesh
from parallel.parallelize import build_local, finish
from parallel.sequence.traffic import TrafficMeter
from train.objective import NextTokenLoss
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage
from train.step import optimizer_step
from train.trainer import WholeTrainer

TIMEOUT_SECONDS = 120.0
# Of a stage a step uses only how parameters train: all of them, as usual.
ONLY_STAGE = Stage("only", 0, 0, 1, BatchShape(1, 1, 1, (1.0,)), BaseCurve(((0, ROPE_BASE),)), None)


def open_world(device: torch.device) -> Mesh:
    """A world of this process alone; `close_world` ends it."""
    return world.start(device, TIMEOUT_SECONDS)


def close_world() -> None:
    """See `open_world`."""
    world.stop()


class EngineStack:
    """See the module, and `plain_stack.Stack`. The mesh stays the caller's."""

    name = "DeepSpeed ZeRO-1"
    bytes_per_parameter: ClassVar[int] = 20

    def __init__(self, config: ModelConfig, mesh: Mesh) -> None:
        parallel, optimizer, traffic = ParallelConfig(), OptimizerConfig(), TrafficMeter()
        core = choose_core("auto", mesh.device, torch.bfloat16)
        # One stage whatever the length.
        local = build_local(config, core, mesh, parallel, sequence_length=1, traffic=traffic)
        settings = zero_settings(
            parallel,
            optimizer,
            precision="bfloat16",
            num_parameters=parameter_count(config),
            device=mesh.device,
        )
        self.model = local.stages[0]
        draw = device_draw(config, mesh.device)
        materialise(self.model, draw, device=mesh.device, dtype=torch.bfloat16)
        parameters, _ = finish(local, mesh)
        objective = NextTokenLoss(self.model, 0.0)
        engine = TrainingEngine(parameters, objective, mesh, optimizer, settings)
        self._mesh = mesh
        self._trainer = WholeTrainer(engine, mesh, traffic)

    def step(self, batch: GlobalBatch) -> float:
        """See `Stack`. NaN if the step was not taken."""
        # Made anew, as the model may have taken another recipe.
        point = Point(ONLY_STAGE, LEARNING_RATE, ROPE_BASE, self.model.config)
        done = optimizer_step(self._trainer, self._mesh, batch, point=point, stop=False)
        return done.loss if done.applied else float("nan")

    def close(self) -> None:
        """See `Stack`. Storage is emptied by hand: hooks and caches hold on to a closed engine."""
        engine = self._trainer.engine
        held = list(_tensors(vars(engine._engine.optimizer)))
        held += [t for state in engine._inner.state.values() for t in _tensors(state)]
        held += [p.data for p in self.model.parameters()]
        held += [p.grad for p in self.model.parameters() if p.grad is not None]
        with contextlib.suppress(Exception):  # a step that ran out of memory left it in any state
            engine.close()
        for tensor in held:
            tensor.untyped_storage().resize_(0)
        del held, engine, self._trainer
        gc.collect()


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)
