"""Forwards without gradients of a model that does not train: what evaluations need of a trainer."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from model.at_step import AtStep
from model.predictions import Predictions
from model.transformer import Transformer
from parallel.mesh import Mesh
from parallel.pipeline.runner import PipelineRunner
from train.objective import MicroBatch

Found = TypeVar("Found")
OfHead = Callable[[Transformer, Tensor, Tensor], Found]


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


class LocalPredictor:
    """The predictor of a model without an engine: its stages on this rank.

    runner: what runs the stages of a pipeline; None: the one stage is the whole model.
    """

    def __init__(
        self, stages: Sequence[Transformer], mesh: Mesh, runner: PipelineRunner | None
    ) -> None:
        self.at_once = 1 if runner is None else runner.placement.ranks
        self.evaluated_tokens = 0
        self._stages, self._mesh, self._runner = stages, mesh, runner

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

    @torch.no_grad()
    def _forward(
        self, micro_batches: Sequence[MicroBatch], at: AtStep | float, of_head: OfHead[Found]
    ) -> list[Found] | None:
        self.evaluated_tokens += sum(len(each.tokens_T) for each in micro_batches)
        if self._runner is None:
            model = self._stages[0]
            found = [
                of_head(model, model(each.tokens_T, each.layout, at), each.targets_T)
                for each in micro_batches
            ]
        else:
            found = self._runner.forward_only(
                micro_batches, at, lambda stage, x_TD, each: of_head(stage, x_TD, each.targets_T)
            )
        return found if found and self._mesh.tensor.rank == 0 else None
