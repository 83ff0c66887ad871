"""Forwards without gradients: what evaluations need of a trainer, or of a model that does not train.

Both classes have the interface `Predictor`. Results are returned by tensor rank 0 of the last pipeline stage.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from model.at_step import AtStep
from model.predictions import Predictions
from model.transformer import Transformer
from parallel.mesh import Mesh
from parallel.pipeline.runner import PipelineRunner
from train.objective import MicroBatch, Returned

Found = TypeVar("Found")


class Predictor(Protocol):
    """Interface: losses and predictions of micro-batches."""

    # Number of micro-batches to pass at a time: enough to keep all pipeline ranks busy.
    at_once: int
    # Tokens of the streams of this rank's forwards without gradients so far, padding included.
    evaluated_tokens: int

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Tensor] | None:
        """Returns, for every micro-batch, the losses of this rank's tokens, without gradients; None if another
        rank counts them. Collective."""

    def predictions(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Predictions] | None:
        """Returns, for every micro-batch, what the model predicts after this rank's tokens; None as `token_losses`.
        Collective."""


class ForwardOnly(Protocol):
    """Interface: the forward of `NextTokenLoss`, called under `no_grad`."""

    def __call__(
        self, micro_batch: MicroBatch, at: AtStep | float, *, returns: Returned
    ) -> tuple[Tensor, ...]: ...


class WholePredictor:
    """Every rank holds all layers (possibly cut by tensor parallelism). forward_only: of the model."""

    at_once = 1

    def __init__(self, forward_only: ForwardOnly, mesh: Mesh) -> None:
        self.evaluated_tokens = 0
        self._counts = mesh.tensor.rank == 0
        self._forward_only = forward_only

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Tensor] | None:
        """See `Predictor`."""
        losses = [losses_T for (losses_T,) in self._forward(micro_batches, at, "token_losses")]
        return losses if self._counts else None

    def predictions(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Predictions] | None:
        """See `Predictor`."""
        found = [Predictions(*each) for each in self._forward(micro_batches, at, "predictions")]
        return found if self._counts else None

    @torch.no_grad()
    def _forward(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float, returns: Returned
    ) -> list[tuple[Tensor, ...]]:
        self.evaluated_tokens += _num_tokens(micro_batches)
        return [self._forward_only(each, at, returns=returns) for each in micro_batches]


class StagedPredictor:
    """The layers are divided among pipeline ranks."""

    def __init__(self, runner: PipelineRunner, mesh: Mesh) -> None:
        self.at_once = runner.placement.ranks
        self.evaluated_tokens = 0
        self._runner, self._mesh = runner, mesh

    def token_losses(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Tensor] | None:
        """See `Predictor`."""
        return self._forward(micro_batches, at, Transformer.token_losses)

    def predictions(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float
    ) -> list[Predictions] | None:
        """See `Predictor`."""
        return self._forward(micro_batches, at, Transformer.predictions)

    def _forward(
        self,
        micro_batches: Sequence[MicroBatch],
        at: AtStep | float,
        of_head: Callable[[Transformer, Tensor, Tensor], Found],
    ) -> list[Found] | None:
        """What the stage with the head computes from hidden states and targets, where `Predictor` asks for it."""
        self.evaluated_tokens += _num_tokens(micro_batches)
        found = self._runner.forward_only(
            micro_batches, at, lambda stage, x_TD, each: of_head(stage, x_TD, each.targets_T)
        )
        return found if found and self._mesh.tensor.rank == 0 else None


def _num_tokens(micro_batches: Sequence[MicroBatch]) -> int:
    return sum(len(one.tokens_T) for one in micro_batches)
