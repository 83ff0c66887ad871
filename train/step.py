"""One optimizer step over a global batch; a step with a non-finite value or a spike is not applied.

The loss is the sum over valid tokens divided by the valid tokens of the WHOLE global batch, so ranks and
micro-batches may hold unequal numbers of them, or none. In a step without any, all gradients are zero, and the
optimizer takes its step with them: its moments decay, weight decay acts.
"""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from data.loader import GlobalBatch
from model.config import ModelConfig
from model.flops import forward_flops, training_flops
from model.layer_pattern import layer_kinds
from parallel.mesh import Mesh
from parallel.sequence.traffic import TrafficMeter
from train.configuration.long_context_settings import LongCeConfig
from train.objective import ShortForward, to_device
from train.schedule.short_context import weighs
from train.schedule.stages import Point
from train.trainer import StepSums, Trainer


@dataclass(frozen=True)
class StepResult:
    """Result of one step over all ranks. Losses are in nats per valid token."""

    # NaN if no token of the step is valid; `applied` says whether the step was finite.
    loss: float
    # Loss of every source, in order; NaN if the source has no valid token in the step.
    loss_by_source: tuple[float, ...]
    z_loss: float
    # Loss with the weights of LongCE; `loss` without them.
    weighted_loss: float
    gradient_norm: float
    applied: bool
    # Model FLOPs of forward and backward over all ranks: windows, documents and padding counted.
    flops: int
    # Ranks that were asked to stop before this step.
    stop_votes: int
    seconds: dict[str, float]
    # Bytes that sequence parallelism received in this step, forward and backward, by kind of layer:
    # {"full": {"mean", "max"}, "window": {"mean", "max"}, ...} over all ranks. None without it.
    received: dict[str, dict[str, float]] | None
    # For each micro-batch, the summed loss (z-loss included) that this rank differentiated; empty outside the
    # last pipeline stage.
    totals: list[Tensor]


def optimizer_step(
    trainer: Trainer,
    mesh: Mesh,
    batch: GlobalBatch,
    *,
    point: Point,
    stop: bool,
    limit: float = math.inf,
    short: ShortForward | None = None,
) -> StepResult:
    """Forward, backward and optimizer update over `batch`. Collective. A non-finite loss or gradient, or a
    loss above `limit`, leaves the weights unchanged.

    stop: this rank was asked to stop; `stop_votes` is the sum over ranks, so that all stop together. short: a forward
    before it that gives the losses of tokens their weights.
    """
    started = time.perf_counter()
    trainer.traffic.reset()  # an evaluation may have been in between
    # ZeRO averages over all ranks that hold the same parameters; the loss is a sum over them.
    per_token = mesh.zero.size / max(1, batch.valid_tokens)

    totals: list[Tensor] = []

    def weigh(total: Tensor) -> Tensor:
        totals.append(total.detach())
        return total * per_token * _poison(total.detach())

    micro_batches = [to_device(micro_batch, mesh.device) for micro_batch in batch.micro_batches]
    counted = trainer.gradients(micro_batches, point.at, weigh, len(batch.shape.weights), short)
    flops = 0
    if mesh.model.rank == 0 and mesh.sequence.rank == 0:  # a stream is counted once
        flops = _flops(batch, point, trainer.engine.parameters.training.frozen, short)
    loss_sum, z_sum, total_flops, stop_votes, *further = _over_world(
        mesh, counted, (float(flops), float(stop))
    )
    weighted_sum, by_source = loss_sum, further
    if len(counted.weighted):
        weighted_sum, *by_source = further
    computed = time.perf_counter()
    loss = _mean(loss_sum, batch.valid_tokens)
    if loss > limit:  # the same number on every rank
        trainer.engine.spoil_gradients()
    outcome = trainer.engine.step(point.learning_rate, point.stage.groups)
    return StepResult(
        loss=loss,
        loss_by_source=_means(by_source or [loss_sum], batch),
        z_loss=_mean(z_sum, batch.valid_tokens),
        weighted_loss=_mean(weighted_sum, batch.valid_tokens),
        gradient_norm=outcome.gradient_norm,
        applied=outcome.applied,
        flops=int(total_flops),
        stop_votes=int(stop_votes),
        seconds={
            "forward_backward": computed - started,
            "optimizer": time.perf_counter() - computed,
        },
        received=_received(mesh, trainer.traffic, point.model),
        totals=totals,
    )


def short_forward(wanted: LongCeConfig | None, point: Point) -> ShortForward | None:
    """Returns the forward that gives LongCE its weights in a step; None without LongCE, or where all would weigh 1."""
    if wanted is None or not weighs(point, wanted):
        return None
    return ShortForward(replace(point.at, keys_at_most=wanted.window_tokens), wanted.cap)


def _flops(
    batch: GlobalBatch, point: Point, frozen: Collection[str], short: ShortForward | None
) -> int:
    """Returns the model FLOPs of the micro-batches. frozen: names of parameters that do not train."""
    lengths = [n for micro_batch in batch.micro_batches for n in micro_batch.lengths]
    found = training_flops(point.model, lengths, frozen)
    if short is not None:
        found += forward_flops(point.model, lengths, short.at.keys_at_most)
    return found


def _over_world(mesh: Mesh, counted: StepSums, more: tuple[float, float]) -> list[float]:
    """Returns loss, squared log-partition, `more`, the weighted loss if there is one, and the losses by source.

    They are summed over all ranks. Collective.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    sums[:2] = counted.sums
    sums[2], sums[3] = more
    mesh.sum_over_world(sums)
    # Separate all-reduces, so that the order of additions does not depend on what else is summed.
    for further in (counted.weighted, counted.by_source):
        if len(further):
            mesh.sum_over_world(further)
    # The only point at which the host waits for the device.
    found: list[float] = torch.cat((sums, counted.weighted, counted.by_source)).tolist()
    return found


def _means(sums: Sequence[float], batch: GlobalBatch) -> tuple[float, ...]:
    """Returns the mean loss of every source."""
    pairs = zip(sums, batch.valid_by_source, strict=True)
    return tuple(_mean(total, valid) for total, valid in pairs)


def _mean(total: float, valid: int) -> float:
    """Returns the mean loss; NaN without a valid token."""
    return total / valid if valid else math.nan


def _received(
    mesh: Mesh, traffic: TrafficMeter, model: ModelConfig
) -> dict[str, dict[str, float]] | None:
    """Returns mean and maximum over ranks of the bytes received in this step, by kind of layer. Collective."""
    if mesh.sequence.size == 1:
        return None
    # Every run has these two; `chunk` and further kinds stand only where there are such layers.
    mine = {"full": 0, "window": 0}
    for kind, spec in layer_kinds(model).items():
        mine[spec.reported_as] = mine.get(spec.reported_as, 0) + traffic.of(kind)
    received = mesh.gather_world(torch.tensor(list(mine.values()), dtype=torch.float64))
    return {
        name: {"mean": float(received[:, i].mean()), "max": float(received[:, i].max())}
        for i, name in enumerate(mine)
    }


def _poison(total: Tensor) -> Tensor:
    """Returns 1, or NaN if `total` is not finite: then every gradient is NaN and no rank applies the step."""
    one = torch.ones_like(total)
    return torch.where(torch.isfinite(total), one, one * float("nan"))
