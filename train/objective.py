"""The training objective: next-token loss of one packed micro-batch, as the forward of one module.

Everything that touches parameters happens inside this forward, so that ZeRO-3 gathers and frees them
around it; evaluation runs the same forward without gradients.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from data.batch import PackedBatch
from model.at_step import AtStep
from model.long_ce import ShortContext
from model.packed_layout import PackedLayout, copy_to_device
from model.transformer import Transformer
from parallel.sequence.layout import SequenceShare, ShardedLayout

Returned = Literal["sums", "token_losses", "predictions"]


@dataclass(frozen=True)
class MicroBatch:
    """A packed stream, or this rank's share of one, on the device that computes."""

    tokens_T: Tensor
    targets_T: Tensor
    layout: PackedLayout
    # int16, the number of every token's source; None where there is one source.
    sources_T: Tensor | None = None
    # What weighs the loss of every token (LongCE); None: all weigh 1.
    short: ShortContext | None = None


@dataclass(frozen=True)
class ShortForward:
    """The forward before each step's own one that gives LongCE its weights.

    at: its settings of attention. cap: the largest weight of a token.
    """

    at: AtStep
    cap: float

    def weigh(self, micro_batch: MicroBatch, losses_T: Tensor) -> MicroBatch:
        """Returns the micro-batch with weights for its losses. losses_T: those of this forward."""
        return replace(micro_batch, short=ShortContext(losses_T, self.cap))


def to_device(batch: PackedBatch, device: torch.device) -> MicroBatch:
    """Copies a packed stream to `device`; pinned and asynchronous for a GPU."""
    if batch.share is None:
        layout = PackedLayout.from_lengths(batch.lengths, device, batch.positions_T)
    else:
        assert isinstance(batch.share, SequenceShare), (
            "made by the dealer that the loader was given"
        )
        layout = ShardedLayout.from_share(batch.share, device, batch.positions_T)
    tokens_T, targets_T = (copy_to_device(x, device) for x in (batch.tokens_T, batch.targets_T))
    sources_T = None if batch.sources_T is None else copy_to_device(batch.sources_T, device)
    return MicroBatch(tokens_T, targets_T, layout, sources_T)


def losses_by_source(losses_T: Tensor, sources_T: Tensor, num_sources: int) -> Tensor:
    """Returns the summed loss of every source, float64 (num_sources,); the order of additions is fixed."""
    zero = losses_T.new_zeros(())
    parts = [
        torch.where(sources_T == source, losses_T, zero).sum(dtype=torch.float64)
        for source in range(num_sources)
    ]
    return torch.stack(parts)


class NextTokenLoss(nn.Module):
    """Summed loss of a micro-batch, or for evaluation the loss or the prediction of every token."""

    def __init__(self, model: Transformer, z_loss: float) -> None:
        super().__init__()
        self.model = model
        self.z_loss = z_loss

    def forward(
        self, micro_batch: MicroBatch, at: AtStep | float, returns: Returned = "sums"
    ) -> tuple[Tensor, ...]:
        """Runs the model and its head.

        Returns, by the name at `returns`, sums: `LossSums` as a tuple, with `total` differentiable.
        token_losses: (losses_T,). predictions: the fields of `Predictions`.
        """
        hidden_TD = self.model(micro_batch.tokens_T, micro_batch.layout, at)
        if returns == "token_losses":
            return (self.model.token_losses(hidden_TD, micro_batch.targets_T),)
        if returns == "predictions":
            return self.model.predictions(hidden_TD, micro_batch.targets_T).tensors()
        sums = self.model.loss(hidden_TD, micro_batch.targets_T, self.z_loss, micro_batch.short)
        return sums.total, sums.loss_sum, sums.z_sum, sums.losses_T, sums.weighted_sum
