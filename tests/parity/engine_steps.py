"""Training steps through the real engine on any layout, and the same steps on one process in plain torch."""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.batch import PackedBatch
from data.loader import GlobalBatch
from data.packing.spans import BatchShape
from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.checkpoint import tensors
from parallel.checkpoint.index import Index
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.engine.groups import GroupSettings
from parallel.engine.optimizers import has_decay
from parallel.engine.training import ORDINARILY, StepCounts, Training
from parallel.mesh import Mesh, World, arrange
from tests.parity.layout_cases import TOKENS, Case
from tests.parity.streams import (
    BASE,
    LENGTHS,
    NUM_SOURCES,
    SEED,
    Z_LOSS,
    at,
    streams,
    streams_of_rank,
    summed_by_source,
    valid_by_source,
)
from train.build_trainer import build_trainer
from train.configuration.compose import compose_run
from train.configuration.schema import RunConfig
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage
from train.step import optimizer_step
from train.trainer import Trainer

CPU = torch.device("cpu")
STEPS, RATE, CLIP = 3, 1e-2, 0.5
# At 1e-8 Adam turns rounding of near-zero gradients into differences of the weights.
OPTIMIZER = OptimizerConfig(epsilon=1e-4, weight_decay=0.2, gradient_clipping=CLIP)


@cache
def small_configuration() -> RunConfig:
    """Composed once: call it before ranks are forked."""
    return compose_run(["schedule=small"])


def configured(
    model: ModelConfig, parallel: ParallelConfig, precision: str, optimizer: OptimizerConfig
) -> RunConfig:
    config = deepcopy(small_configuration())
    config.model, config.parallel = model, parallel
    config.optimizer = optimizer
    config.seed = SEED
    config.train.precision = precision
    config.train.z_loss = Z_LOSS
    return config


def trainer_of(mesh: Mesh, model: ModelConfig, parallel: ParallelConfig, **train: Any) -> Trainer:
    """A trainer as a run builds it. train: `precision`, `optimizer`, `training` and fields of config.train."""
    precision, optimizer = train.pop("precision", "float32"), train.pop("optimizer", OPTIMIZER)
    training = train.pop("training", ORDINARILY)
    config = configured(model, parallel, precision, optimizer)
    for key, value in train.items():
        setattr(config.train, key, value)
    return build_trainer(config, mesh, parallel, sequence_length=TOKENS, training=training)


def step(
    trainer: Trainer,
    mesh: Mesh,
    case: Case,
    parallel: ParallelConfig,
    number: int,
    limit: float = math.inf,
    groups: Mapping[str, GroupSettings] = MappingProxyType({}),
) -> Any:
    """Step `number` of the case's streams; with a `limit` below the loss it is skipped. groups: those of its stage."""
    everything = streams(case, first=number * 8)
    mine = tuple(streams_of_rank(case, mesh, parallel, first=number * 8))
    weights = (1.0,) * NUM_SOURCES
    shape = BatchShape(TOKENS, len(everything) * TOKENS, TOKENS, weights)
    batch = GlobalBatch(shape, mine, valid_by_source(everything), 0, {})
    stage = Stage("only", 0, 0, STEPS, shape, BaseCurve(((0, BASE),)), None, groups=groups)
    return optimizer_step(
        trainer,
        mesh,
        batch,
        point=Point(stage, RATE, BASE, case.at_stage, LENGTHS),
        stop=False,
        limit=limit,
    )


Named = list[tuple[str, nn.Parameter]]


def adamw(named: Named) -> Callable[[], object]:
    """A step of torch's AdamW."""
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if has_decay(n)], "weight_decay": 0.2},
        {"params": [p for n, p in named if not has_decay(n)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=OPTIMIZER.epsilon).step


def oracle(
    case: Case, optimizer: Callable[[Named], Callable[[], object]] = adamw
) -> tuple[list[float], list[float], dict[str, Tensor]]:
    """Losses and gradient norms of all steps, and the weights after the last one, on one process."""
    config = case.at_stage
    core = choose_core("dense", CPU, torch.float32, softcap=config.attention_softcap)
    model = Transformer(config, core)
    initialize(model, config, SEED)
    named = list(model.named_parameters())
    take_step = optimizer(named)
    losses, norms = [], []
    for number in range(STEPS):
        batch = streams(case, first=number * 8)
        valid = sum(b.valid_tokens for b in batch)
        model.zero_grad()
        losses.append(sum(_backward(model, b, valid) for b in batch))
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        take_step()
    return losses, norms, {n: p.detach() for n, p in named}


def losses_by_source(case: Case) -> tuple[float, ...]:
    """Of the first step, per valid token of every source, on one process; NaN for a source that has none."""
    config, batch = case.at_stage, streams(case)
    core = choose_core("dense", CPU, torch.float32, softcap=config.attention_softcap)
    model = Transformer(config, core)
    initialize(model, config, SEED)
    sums = torch.zeros(NUM_SOURCES, dtype=torch.float64)
    with torch.no_grad():
        for one in batch:
            layout = PackedLayout.from_lengths(one.lengths, positions_T=one.positions_T)
            hidden_TD = model(one.tokens_T, layout, at(config))
            sums += summed_by_source(model.token_losses(hidden_TD, one.targets_T), one)
    return tuple((sums / torch.tensor(valid_by_source(batch))).tolist())


def _backward(model: Transformer, batch: PackedBatch, valid: int) -> float:
    layout = PackedLayout.from_lengths(batch.lengths, positions_T=batch.positions_T)
    hidden_TD = model(batch.tokens_T, layout, at(model.config))
    sums = model.loss(hidden_TD, batch.targets_T, Z_LOSS)
    (sums.total / valid).backward()
    return float(sums.loss_sum) / valid


def weights(trainer: Trainer) -> dict[str, dict[str, Tensor]]:
    """Every tensor of this rank's stage, whole. Collective."""
    engine = trainer.engine
    return {
        name: {kind: tensor.clone() for kind, tensor in engine.full_tensors(name).items()}
        for name in engine.parameters.named
    }


def everything(trainer: Trainer, mesh: Mesh) -> dict[str, dict[str, Tensor]]:
    """Every tensor of the whole model, on every rank."""
    parts = mesh.gather_objects(weights(trainer))
    return {name: found for part in parts for name, found in part.items()}


def differences(
    found: dict[str, dict[str, Tensor]],
    wanted: dict[str, dict[str, Tensor]],
    parallel: ParallelConfig,
) -> list[str]:
    if found.keys() != wanted.keys():
        return [f"{parallel}: {found.keys() ^ wanted.keys()}"]
    return [
        f"{parallel}: {kind} of {name}"
        for name in found
        for kind in found[name]
        if not torch.equal(found[name][kind], wanted[name][kind])
    ]


Saved = tuple[Path, Index, dict[str, dict[str, Tensor]]]
"""A checkpoint after two steps: its folder, its index and what it must hold."""


@dataclass(frozen=True)
class Walk:
    """One layout and one optimizer through everything that a run does with them. training: see `build_trainer`."""

    world: World
    case: Case
    layout: ParallelConfig
    optimizer: OptimizerConfig
    precision: str = "float32"
    training: Training = ORDINARILY

    def check(self, folder: Path, truth: Any, before: Saved | None) -> Saved:
        """Train as the `truth` of `oracle` does; save, skip a step, resume; load `before` of another layout."""
        mesh = arrange(self.world, self.layout.topology(self.world.world_size))
        trainer = self._build(mesh)
        taken = [self._step(trainer, mesh, number) for number in (0, 1)]
        saved = everything(trainer, mesh)
        folder.mkdir(exist_ok=True)
        index = tensors.write(tensors.gather_owned(trainer.engine), folder, mesh)
        assert not self._step(trainer, mesh, 2, limit=0.0).applied
        self._expect(trainer, mesh, saved)
        straight = self._finish(trainer, mesh, taken, truth)
        trainer.engine.close()
        trainer = self._build(mesh)
        if before is not None:
            tensors.read(trainer.engine, *before[:2], steps=StepCounts(2))
            self._expect(trainer, mesh, before[2])
        tensors.read(trainer.engine, folder, index, steps=StepCounts(2))
        self._step(trainer, mesh, 2)
        self._expect(trainer, mesh, straight)
        assert trainer.engine.optimizer_steps().most == STEPS
        trainer.engine.close()
        return folder, index, saved

    def _build(self, mesh: Mesh) -> Trainer:
        config = {
            "optimizer": self.optimizer,
            "precision": self.precision,
            "training": self.training,
        }
        return trainer_of(mesh, self.case.config, self.layout, **config)

    def _step(self, trainer: Trainer, mesh: Mesh, number: int, limit: float = math.inf) -> Any:
        return step(trainer, mesh, self.case, self.layout, number, limit)

    def _expect(self, trainer: Trainer, mesh: Mesh, wanted: dict[str, dict[str, Tensor]]) -> None:
        """Bit by bit."""
        assert differences(everything(trainer, mesh), wanted, self.layout) == []

    def _finish(self, trainer: Trainer, mesh: Mesh, taken: list[Any], truth: Any) -> Any:
        results = [*taken, self._step(trainer, mesh, 2)]
        losses, norms, weights = truth
        # float32: a few units in the last place over sums of some hundred terms. bfloat16 has 8 bits.
        of_loss, of_norm = {"float32": (2e-6, 1e-5), "bfloat16": (4e-3, 4e-2)}[self.precision]
        assert [result.loss for result in results] == pytest.approx(losses, rel=of_loss)
        assert [result.gradient_norm for result in results] == pytest.approx(norms, rel=of_norm)
        found = everything(trainer, mesh)
        if self.precision == "bfloat16":
            return found
        for name, weight in weights.items():
            torch.testing.assert_close(
                found[name]["weight"], weight, rtol=1e-4, atol=2e-6, msg=f"{name} {self.layout}"
            )
        return found
