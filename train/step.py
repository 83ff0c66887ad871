"""One optimizer step over a global batch, and the stop before a non-finite one.

The loss is the sum over valid tokens divided by the valid tokens of the WHOLE global batch, so ranks and
micro-batches may hold unequal numbers of them, or none.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.loader import GlobalBatch
from model.config import ModelConfig
from model.flops import training_flops
from parallel.deepspeed_engine import TrainingEngine
from parallel.mesh import Mesh
from train.objective import to_device
from train.schedule import Point


@dataclass(frozen=True)
class StepResult:
    """What one step did, over the whole world. Losses are natural logarithms per valid token."""

    loss: float
    z_loss: float
    gradient_norm: float
    applied: bool
    # Model FLOPs of forward and backward over all ranks: windows, documents and padding counted.
    flops: int
    # Ranks that were asked to stop before this step.
    stop_votes: int
    seconds: dict[str, float]


def optimizer_step(
    engine: TrainingEngine,
    mesh: Mesh,
    batch: GlobalBatch,
    *,
    point: Point,
    model: ModelConfig,
    stop: bool,
) -> StepResult:
    """Forward, backward and AdamW over `batch`. A non-finite loss or gradient changes nothing.

    `stop`: this rank was asked to stop; the sum over ranks comes back, so that all stop together.
    """
    started = time.perf_counter()
    per_token = mesh.dp_size / max(1, batch.valid_tokens)
    sums = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    for index, packed in enumerate(batch.micro_batches):
        micro_batch = to_device(packed, mesh.device)

        def run(module: nn.Module, micro_batch: Any = micro_batch) -> Tensor:
            total, loss_sum, z_sum = module(micro_batch, point.rope_base)
            sums[0] += loss_sum.detach()
            sums[1] += z_sum.detach()
            scaled: Tensor = total * per_token * _poison(total.detach())
            return scaled

        engine.forward_backward(run, last=index == len(batch.micro_batches) - 1)
        sums[2] += float(training_flops(model, packed.lengths))
    sums[3] = float(stop)
    mesh.sum_over_world(sums)
    loss_sum, z_sum, flops, stop_votes = sums.tolist()
    computed = time.perf_counter()
    outcome = engine.step(point.learning_rate)
    return StepResult(
        loss=loss_sum / max(1, batch.valid_tokens),
        z_loss=z_sum / max(1, batch.valid_tokens),
        gradient_norm=outcome.gradient_norm,
        applied=outcome.applied,
        flops=int(flops),
        stop_votes=int(stop_votes),
        seconds={
            "forward_backward": computed - started,
            "optimizer": time.perf_counter() - computed,
        },
    )


def _poison(total: Tensor) -> Tensor:
    """1, or NaN if `total` is not finite: then every gradient is NaN and no rank takes the step."""
    one = torch.ones_like(total)
    return torch.where(torch.isfinite(total), one, one * float("nan"))


def what_was_seen(mesh: Mesh, batch: GlobalBatch, result: StepResult, step: int) -> dict[str, Any]:
    """What a non-finite step had in hand: ranks and their documents. Collective."""
    mine = [
        {"micro_batch": index, "documents": [asdict(span) for span in packed.spans]}
        for index, packed in enumerate(batch.micro_batches)
    ]
    return {
        "step": step,
        "loss": repr(result.loss),
        "gradient_norm": repr(result.gradient_norm),
        "valid_tokens": batch.valid_tokens,
        "ranks": [
            {"rank": rank, "micro_batches": held}
            for rank, held in enumerate(mesh.gather_objects(mine))
        ],
    }
