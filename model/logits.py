"""Logits of a large vocabulary: from the product with the head's weight, a chunk of tokens at a time.

Shape letters: C tokens of one chunk, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.norm import statistics_dtype

# Target of a token without a label: torch's `ignore_index`, and what data/batch.py packs.
IGNORE = -100
# Rows of logits held at a time. On a CPU they should fit in its cache. An accelerator needs large
# products: there the rows may take 1 GiB in float32.
_CPU_ROWS = 256
_ACCELERATOR_LOGITS = 1 << 28


@dataclass(frozen=True)
class Logits:
    """The map from the product h W^T to the logits: scale, then softcap (0 for none)."""

    scale: float = 1.0
    softcap: float = 0.0

    def of(self, product: Tensor) -> Tensor:
        """The logits in float32, or float64."""
        scaled = product.to(statistics_dtype(product.dtype)) * self.scale
        return self.softcap * torch.tanh(scaled / self.softcap) if self.softcap else scaled

    def in_place(self, product: Tensor) -> Tensor:
        """Like `of`, in the buffer of the product where its dtype is float32 or float64."""
        scaled = product.to(statistics_dtype(product.dtype))
        if self.scale != 1.0:
            scaled = scaled.mul_(self.scale)
        return scaled.div_(self.softcap).tanh_().mul_(self.softcap) if self.softcap else scaled

    def slope(self, logits: Tensor) -> Tensor | float:
        """d logits / d product at these logits."""
        if not self.softcap:
            return self.scale
        return (1.0 - (logits / self.softcap).square()) * self.scale


# Logits that are the products themselves.
UNCHANGED = Logits()


def rows_at_once(like: Tensor, vocab_size: int) -> int:
    """Tokens of one chunk, for logits of `vocab_size` columns on the device of `like`."""
    return _CPU_ROWS if like.is_cpu else max(_CPU_ROWS, _ACCELERATOR_LOGITS // vocab_size)


def chunks_of(num_tokens: int, rows: int) -> list[slice]:
    """Slices of `rows` tokens; the last may be shorter."""
    return [slice(start, min(start + rows, num_tokens)) for start in range(0, num_tokens, rows)]


def picked_logits(logits_CV: Tensor, targets_C: Tensor, first: int = 0) -> Tensor:
    """The targets' logits (C,), 0 where the target is not among the vocabulary columns from `first` on."""
    column_C, held_C = columns(logits_CV, targets_C, first)
    picked_C = logits_CV.gather(1, column_C[:, None]).squeeze(1)
    return torch.where(held_C, picked_C, picked_C.new_zeros(()))


def columns(logits_CV: Tensor, targets_C: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """The column of each target, and whether it is among these columns (if not, the column is arbitrary)."""
    local_C = targets_C - first
    last = logits_CV.shape[1] - 1
    return local_C.clamp(0, last), (local_C >= 0) & (local_C <= last)
