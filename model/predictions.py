"""What the output head predicts: the most probable id after a token, and the rank of the token's target.

    rank of a target = number of ids before it: those with a larger logit, and among equal logits those with a lower id

Rank 0 is the prediction itself (greedy decoding takes the lowest id among equal logits). Logits are made for the scored
tokens alone, those with a target, and for a chunk of them at a time.

Shape letters: T tokens, C scored tokens of one chunk, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.logits import IGNORE, Logits, chunks_of, picked_logits, rows_at_once
from model.products import for_product


@dataclass(frozen=True)
class Predictions:
    """Of every token of a stream, int64 (T,); IGNORE where the token has no target.

    ids_T: the id with the largest logit, the lowest among equals. ranks_T: the rank of the target, 0 if it is that id.
    """

    ids_T: Tensor
    ranks_T: Tensor


@torch.no_grad()
def predictions(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, logits: Logits
) -> Predictions:
    """Returns the predictions of one device that holds the whole vocabulary. targets_T: int64 (T,)."""
    found = Predictions(*(torch.full_like(targets_T, IGNORE) for _ in range(2)))
    scored = (targets_T != IGNORE).nonzero().squeeze(1)
    weight_VD = for_product(weight_VD)
    for chunk in chunks_of(len(scored), rows_at_once(hidden_TD, weight_VD.shape[0])):
        tokens = scored[chunk]
        logits_CV = logits.in_place(for_product(hidden_TD[tokens]) @ weight_VD.t())
        targets_C = targets_T[tokens]
        found.ids_T[tokens] = logits_CV.argmax(dim=1)
        found.ranks_T[tokens] = count_before(
            logits_CV, picked_logits(logits_CV, targets_C), targets_C
        )
    return found


def count_before(logits_CV: Tensor, picked_C: Tensor, targets_C: Tensor, first: int = 0) -> Tensor:
    """Returns how many of the vocabulary columns from `first` on come before each target, int64 (C,).

    picked_C: the targets' logits. A NaN counts as larger than every logit, and every logit as larger than a NaN, so no
    target is predicted by a row with NaN.
    """
    ids_V = torch.arange(first, first + logits_CV.shape[1], device=logits_CV.device)
    larger_CV = (logits_CV <= picked_C[:, None]).logical_not_()
    tied_CV = (logits_CV == picked_C[:, None]) & (ids_V < targets_C[:, None])
    return (larger_CV | tied_CV).sum(dim=1)
