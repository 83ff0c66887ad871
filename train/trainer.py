"""What turns micro-batches into gradients or losses: the whole model in one call, or a pipeline of stages.

Both have the same three methods, so the step and the evaluation do not know which they hold. Sums are
counted once: by tensor rank 0 of the last pipeline stage; everybody else adds zeros.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.transformer import Transformer
from parallel.engine.engine import TrainingEngine
from parallel.mesh import Mesh
from parallel.pipeline.placement import Placement
from parallel.pipeline.runner import PipelineRunner
from parallel.pipeline.schedule import TimedAction
from parallel.pipeline.timeline import Recorder
from parallel.sequence.traffic import TrafficMeter
from train.objective import MicroBatch

Weigh = Callable[[Tensor], Tensor]
Draw = Callable[[list[TimedAction], Placement, int], None]
"""Takes a recorded step: its actions, where stages live, number of micro-batches. Main rank only."""
# The step of a pipeline that is drawn: allocators and caches are warm by then.
_DRAWN_STEP = 3


class Trainer(Protocol):
    """One optimizer step's gradients, and losses for evaluation."""

    engine: TrainingEngine
    # Bytes that sequence parallelism received.
    traffic: TrafficMeter

    def gradients(
        self, micro_batches: Sequence[MicroBatch], rope_base: float, weigh: Weigh
    ) -> Tensor:
        """Forward and backward over all micro-batches. Collective.

        weigh: from a micro-batch's summed loss to the scalar that is differentiated. Returns float64 (2,):
        summed loss and summed squared log-partition, counted once over tensor and pipeline ranks.
        """

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], rope_base: float
    ) -> list[Tensor] | None:
        """Every micro-batch's losses of the tokens held here, without gradients; None where this rank is
        not the one that counts them. Collective."""


class WholeTrainer:
    """Every layer lives on every rank (cut by tensor parallelism or not)."""

    def __init__(self, engine: TrainingEngine, mesh: Mesh, traffic: TrafficMeter) -> None:
        self.engine = engine
        self.traffic = traffic
        self._counts = mesh.tensor.rank == 0
        self._device = mesh.device

    def gradients(
        self, micro_batches: Sequence[MicroBatch], rope_base: float, weigh: Weigh
    ) -> Tensor:
        """See `Trainer`."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for index, micro_batch in enumerate(micro_batches):

            def run(module: nn.Module, micro_batch: MicroBatch = micro_batch) -> Tensor:
                total, loss_sum, z_sum = module(micro_batch, rope_base)
                if self._counts:
                    sums[0] += loss_sum.detach()
                    sums[1] += z_sum.detach()
                return weigh(total)

            self.engine.forward_backward(run, last=index == len(micro_batches) - 1)
        return sums

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], rope_base: float
    ) -> list[Tensor] | None:
        """See `Trainer`."""
        with torch.no_grad():
            losses = [
                self.engine.forward_only(micro_batch, rope_base, per_token=True)[0]
                for micro_batch in micro_batches
            ]
        return losses if self._counts else None


class StagedTrainer:
    """The layers are cut among pipeline ranks."""

    def __init__(
        self,
        engine: TrainingEngine,
        runner: PipelineRunner,
        mesh: Mesh,
        traffic: TrafficMeter,
        *,
        z_loss: float,
        draw: Draw,
    ) -> None:
        self.engine = engine
        self.traffic = traffic
        self._runner = runner
        self._mesh = mesh
        self._z_loss = z_loss
        self._draw = draw
        self._steps = 0

    def gradients(
        self, micro_batches: Sequence[MicroBatch], rope_base: float, weigh: Weigh
    ) -> Tensor:
        """See `Trainer`."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._mesh.device)

        def loss_of(stage: Transformer, hidden_TD: Tensor, micro_batch: Any) -> Tensor:
            found = stage.loss(hidden_TD, micro_batch.targets_T, self._z_loss)
            if self._mesh.tensor.rank == 0:
                sums[0] += found.loss_sum.detach()
                sums[1] += found.z_sum.detach()
            return weigh(found.total)

        self._steps += 1
        recorder = Recorder(self._mesh) if self._steps == _DRAWN_STEP else None
        if recorder is not None:
            recorder.start()
        self._runner.recorder = recorder
        self.engine.run_pipeline(
            lambda: self._runner.forward_backward(micro_batches, rope_base, loss_of)
        )
        if recorder is not None:
            timed = recorder.gather()
            if self._mesh.is_main:
                self._draw(timed, self._runner.placement, len(micro_batches))
        return sums

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], rope_base: float
    ) -> list[Tensor] | None:
        """See `Trainer`."""
        losses = self._runner.forward_only(
            micro_batches,
            rope_base,
            lambda stage, hidden_TD, micro_batch: stage.token_losses(
                hidden_TD, micro_batch.targets_T
            ),
        )
        return losses if losses and self._mesh.tensor.rank == 0 else None
