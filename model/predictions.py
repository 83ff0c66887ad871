"""What the output head predicts: the most probable id after a token, and rank and loss of the token's target.

    rank of a target = number of ids before it: those with a larger logit, and among equal logits those with a lower id

Rank 0 is the prediction itself (greedy decoding takes the lowest id among equal logits). Logits are made for the scored
tokens alone, those with a target, and for a chunk of them at a time.

Shape letters: T tokens, C scored tokens of one chunk, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.logits import IGNORE, Logits, chunks_of, picked_logits, rows_at_once
from model.norm import statistics_dtype
from model.products import for_product


@dataclass(frozen=True)
class Predictions:
    """Of every token of a stream, (T,).

    ids_T: int64, the id with the largest logit, the lowest among equals. ranks_T: int64, the rank of the target, 0 if
    it is that id. Both are IGNORE where the token has no target. losses_T: natural-log loss of the target, or 0,
    in float32 or float64.
    """

    ids_T: Tensor
    ranks_T: Tensor
    losses_T: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ids_T, ranks_T, losses_T."""
        return self.ids_T, self.ranks_T, self.losses_T


@torch.no_grad()
def predictions(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, logits: Logits
) -> Predictions:
    """Returns the predictions of one device that holds the whole vocabulary. targets_T: int64 (T,)."""
    found = nothing_predicted(hidden_TD, targets_T)
    scored = (targets_T != IGNORE).nonzero().squeeze(1)
    weight_VD = for_product(weight_VD)
    for chunk in chunks_of(len(scored), rows_at_once(hidden_TD, weight_VD.shape[0])):
        tokens = scored[chunk]
        logits_CV = logits.in_place(for_product(hidden_TD[tokens]) @ weight_VD.t())
        targets_C = targets_T[tokens]
        picked_C = picked_logits(logits_CV, targets_C)
        found.ids_T[tokens] = logits_CV.argmax(dim=1)
        found.ranks_T[tokens] = count_before(logits_CV, picked_C, targets_C)
        found.losses_T[tokens] = logits_CV.logsumexp(dim=1) - picked_C
    return found


def nothing_predicted(hidden_TD: Tensor, targets_T: Tensor) -> Predictions:
    """Returns the predictions of tokens without a target, to be filled."""
    losses_T = hidden_TD.new_zeros(targets_T.shape, dtype=statistics_dtype(hidden_TD.dtype))
    ids_T, ranks_T = (torch.full_like(targets_T, IGNORE) for _ in range(2))
    return Predictions(ids_T, ranks_T, losses_T)


def count_before(logits_CV: Tensor, picked_C: Tensor, targets_C: Tensor, first: int = 0) -> Tensor:
    """Returns how many of the vocabulary columns from `first` on come before each target, int64 (C,).

    picked_C: the targets' logits. A NaN counts as larger than every logit, and every logit as larger than a NaN, so no
    target is predicted by a row with NaN.
    """
    ids_V = torch.arange(first, first + logits_CV.shape[1], device=logits_CV.device)
    before_CV = (logits_CV <= picked_C[:, None]).logical_not_()
    tied_CV = logits_CV == picked_C[:, None]
    tied_CV &= ids_V < targets_C[:, None]
    before_CV |= tied_CV
    # Twice as fast as a sum in int64, on a CPU.
    return before_CV.sum(dim=1, dtype=torch.int32).long()
