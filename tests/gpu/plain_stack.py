"""One optimizer step of the model under torch's fused AdamW alone: what DeepSpeed's is compared with.

Weights, gradients and moments are bfloat16, 8 bytes a parameter. And the batches that both are fed.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

import torch
from presets import ROPE_BASE, device_draw
from torch import Tensor

from data.batch import IGNORE, PackedBatch
from data.loader import GlobalBatch
from data.packing.spans import BatchShape, starts_of
from model.attention.core import choose_core
from model.config import ModelConfig
from model.transformer import Transformer
from train.objective import NextTokenLoss, to_device

SEED = 7
LEARNING_RATE = 1e-5


class Stack(Protocol):
    """A model with its optimizer."""

    name: str
    model: Transformer
    bytes_per_parameter: ClassVar[int]

    def step(self, batch: GlobalBatch) -> float:
        """One optimizer step; the mean loss before it."""

    def close(self) -> None:
        """Give the memory back."""


class PlainStack:
    """See the module."""

    name = "torch AdamW(fused), bfloat16 weights and moments"
    bytes_per_parameter: ClassVar[int] = 8

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        core = choose_core("auto", device, torch.bfloat16)
        with torch.device("meta"):
            self.model = Transformer(config, core).to(torch.bfloat16)
        self.model.to_empty(device=device)
        draw = device_draw(config, device)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                draw(name, parameter)
        self._device = device
        self._objective = NextTokenLoss(self.model, 0.0)
        self._adam = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self, batch: GlobalBatch) -> float:
        """See `Stack`."""
        loss = self.backward(batch)
        self._adam.step()
        self.forget_gradients()
        return loss.item()

    def backward(self, batch: GlobalBatch) -> Tensor:
        """Forward and backward of the batch's micro-batches; their mean loss, detached."""
        mean = torch.zeros((), device=self._device)
        for packed in batch.micro_batches:
            total, loss_sum, *_ = self._objective(to_device(packed, self._device), ROPE_BASE)
            (total / batch.valid_tokens).backward()
            mean += loss_sum.detach() / batch.valid_tokens
        return mean

    def forget_gradients(self) -> None:
        """As before the backward."""
        self._adam.zero_grad(set_to_none=True)

    def close(self) -> None:
        """See `Stack`."""
        self._adam.state.clear()
        self.forget_gradients()
        for parameter in self.model.parameters():
            parameter.data = parameter.data.new_empty(0)


def stream(
    lengths: Sequence[int], vocab_size: int, *, row: int | None = None, micro_batches: int = 1
) -> GlobalBatch:
    """A step of micro-batches: documents of these lengths, one a row, of drawn tokens.

    row: tokens of a row; the longest document by default.
    """
    tokens = sum(lengths)
    valid = tokens - len(lengths)
    generator = torch.Generator().manual_seed(SEED)
    ends = torch.tensor(lengths).cumsum(0) - 1
    packed = []
    for _ in range(micro_batches):
        tokens_T = torch.randint(vocab_size, (tokens,), generator=generator)
        targets_T = tokens_T.roll(-1)
        targets_T[ends] = IGNORE
        packed.append(
            PackedBatch(tokens_T, targets_T, tuple(lengths), starts_of(lengths), valid, 0, ())
        )
    shape = BatchShape(row or max(lengths), micro_batches * tokens, tokens, (1.0,))
    return GlobalBatch(shape, tuple(packed), (micro_batches * valid,), 0, {})
