"""Computes gradients or losses of micro-batches: with the whole model in one call, or a pipeline of stages.

Both classes have the interface of `Trainer`, which step and evaluation use. Sums are counted once: by
tensor rank 0 of the last pipeline stage; all other ranks add zeros.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.at_step import AtStep
from model.attention.gate_sums import GateSums
from model.layer_sums import LayerSums
from model.transformer import Transformer
from parallel.engine.engine import TrainingEngine
from parallel.mesh import Mesh
from parallel.pipeline.placement import Placement
from parallel.pipeline.runner import PipelineRunner
from parallel.pipeline.schedule import TimedAction
from parallel.pipeline.timeline import Recorder
from parallel.sequence.traffic import TrafficMeter
from train.objective import MicroBatch, ShortForward, losses_by_source
from train.predictor import Predictor, StagedPredictor, WholePredictor

Weigh = Callable[[Tensor], Tensor]
Draw = Callable[[list[TimedAction], Placement, int], None]
"""Takes a recorded step: its actions, where stages live, number of micro-batches. Main rank only."""
# The pipeline step whose timeline is drawn: by then allocators and caches are warm.
_DRAWN_STEP = 3


class StepSums:
    """Sums over a step's micro-batches on one rank, in float64.

    sums: (2,), the summed loss and the summed squared log-partition. by_source: (num_sources,), the summed loss of
    every source; empty if there is one source. weighted: (1,), the summed loss with weights of tokens; empty if they
    have none.
    """

    def __init__(self, num_sources: int, device: torch.device, *, weighs: bool = False) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        several = num_sources if num_sources > 1 else 0
        self.by_source = torch.zeros(several, dtype=torch.float64, device=device)
        self.weighted = torch.zeros(int(weighs), dtype=torch.float64, device=device)

    def add(
        self,
        micro_batch: MicroBatch,
        loss_sum: Tensor,
        z_sum: Tensor,
        losses_T: Tensor,
        weighted_sum: Tensor,
    ) -> None:
        """Adds one micro-batch."""
        self.sums[0] += loss_sum.detach()
        self.sums[1] += z_sum.detach()
        self.weighted += weighted_sum.detach()
        if len(self.by_source):
            assert micro_batch.sources_T is not None, "of several sources every token has one"
            self.by_source += losses_by_source(
                losses_T.detach(), micro_batch.sources_T, len(self.by_source)
            )


class Trainer(Predictor, Protocol):
    """Interface: gradients of an optimizer step, beside what evaluations need."""

    engine: TrainingEngine
    # Bytes that sequence parallelism received.
    traffic: TrafficMeter
    # Sums of output gates; None without a gate.
    gate_sums: GateSums | None
    # Sums of residual stream and attention logits; None without `logging.layer_steps`.
    layer_sums: LayerSums | None

    def gradients(
        self,
        micro_batches: Sequence[MicroBatch],
        at: AtStep | float,
        weigh: Weigh,
        num_sources: int = 1,
        short: ShortForward | None = None,
    ) -> StepSums:
        """Forward and backward over all micro-batches. Collective.

        weigh: maps a micro-batch's summed loss to the scalar that is differentiated. short: a forward before it that
        gives the losses of tokens their weights. Returns sums that are counted once over tensor and pipeline ranks.
        """


class WholeTrainer(WholePredictor):
    """Every rank holds all layers (possibly cut by tensor parallelism)."""

    gate_sums: GateSums | None = None
    layer_sums: LayerSums | None = None

    def __init__(self, engine: TrainingEngine, mesh: Mesh, traffic: TrafficMeter) -> None:
        super().__init__(engine.forward_only, mesh)
        self.engine = engine
        self.traffic = traffic
        self._device = mesh.device

    def gradients(
        self,
        micro_batches: Sequence[MicroBatch],
        at: AtStep | float,
        weigh: Weigh,
        num_sources: int = 1,
        short: ShortForward | None = None,
    ) -> StepSums:
        """See `Trainer`."""
        counted = StepSums(num_sources, self._device, weighs=short is not None)
        for index, micro_batch in enumerate(micro_batches):
            if short is not None:
                ((losses_T,),) = self._forward([micro_batch], short.at, "token_losses")
                micro_batch = short.weigh(micro_batch, losses_T)

            def run(module: nn.Module, micro_batch: MicroBatch = micro_batch) -> Tensor:
                total, *sums = module(micro_batch, at)
                if self._counts:
                    counted.add(micro_batch, *sums)
                return weigh(total)

            self.engine.forward_backward(run, last=index == len(micro_batches) - 1)
        return counted


class StagedTrainer(StagedPredictor):
    """The layers are divided among pipeline ranks."""

    gate_sums: GateSums | None = None
    layer_sums: LayerSums | None = None

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
        super().__init__(runner, mesh)
        self.engine = engine
        self.traffic = traffic
        self._z_loss = z_loss
        self._draw = draw
        self._steps = 0

    def gradients(
        self,
        micro_batches: Sequence[MicroBatch],
        at: AtStep | float,
        weigh: Weigh,
        num_sources: int = 1,
        short: ShortForward | None = None,
    ) -> StepSums:
        """See `Trainer`."""
        counted = StepSums(num_sources, self._mesh.device, weighs=short is not None)

        def loss_of(stage: Transformer, hidden_TD: Tensor, micro_batch: Any) -> Tensor:
            found = stage.loss(hidden_TD, micro_batch.targets_T, self._z_loss, micro_batch.short)
            if self._mesh.tensor.rank == 0:
                counted.add(
                    micro_batch, found.loss_sum, found.z_sum, found.losses_T, found.weighted_sum
                )
            return weigh(found.total)

        micro_batches = self._weighed(micro_batches, short)
        self._steps += 1
        recorder = Recorder(self._mesh) if self._steps == _DRAWN_STEP else None
        if recorder is not None:
            recorder.start()
        self._runner.recorder = recorder
        self.engine.run_pipeline(lambda: self._runner.forward_backward(micro_batches, at, loss_of))
        if recorder is not None:
            timed = recorder.gather()
            if self._mesh.is_main:
                self._draw(timed, self._runner.placement, len(micro_batches))
        return counted

    def _weighed(
        self, micro_batches: Sequence[MicroBatch], short: ShortForward | None
    ) -> Sequence[MicroBatch]:
        """Returns the micro-batches with weights for their losses, on the ranks of the stage with the head."""
        if short is None:
            return micro_batches
        losses = self._runner.forward_only(
            micro_batches,
            short.at,
            lambda stage, x_TD, each: stage.token_losses(x_TD, each.targets_T),
        )
        if not losses:
            return micro_batches
        pairs = zip(micro_batches, losses, strict=True)
        return [short.weigh(micro_batch, losses_T) for micro_batch, losses_T in pairs]
