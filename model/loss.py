"""Cross-entropy of a large vocabulary, in chunks, with the gradients computed in the forward.

The logits of a long stream (T x V) would be the largest tensor of the whole step, so the stream is
processed in chunks of rows. Each chunk's logits are computed, overwritten by their gradient, added
to the gradients of the hidden states and of the head's weight, and freed. The forward keeps these
two gradients, (T, D) and (V, D, in float32 or float64); the backward only multiplies them by the
incoming scale. No logits are kept and nothing is recomputed.

    logits = logit_scale * h W^T      lse = log sum exp logits         (with a cap c: logits -> c tanh(logits / c))
    total  = sum over valid tokens of w (lse - logits[target]) + z_loss * lse^2
    d total / d logits = softmax * (w + 2 z_loss lse) - w onehot(target)

w is 1, or the token's weight (`long_ce.py`), which is made chunk by chunk. Natural logarithms throughout. Source of the
z-loss: arXiv 2204.02311, section 5.

Shape letters: T tokens, C tokens of one chunk, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.logits import IGNORE, UNCHANGED, Logits, chunks_of, columns, picked_logits, rows_at_once
from model.long_ce import ShortContext
from model.norm import statistics_dtype
from model.predictions import Predictions, predictions
from model.products import for_product


@dataclass(frozen=True)
class LossSums:
    """Sums over the valid tokens of one stream, as scalars on its device; nothing is averaged yet.

    total: weighted_sum + z_loss * z_sum, the ONE differentiable field. loss_sum: natural-log
    cross-entropy, detached. z_sum: squared log-sum-exp of the logits, detached. losses_T: the cross-entropy of
    every token (T,) in float32 or float64, 0 where its target is ignored, detached. weighted_sum: cross-entropy with
    the weights of tokens, detached; loss_sum where they have none.
    """

    total: Tensor
    loss_sum: Tensor
    z_sum: Tensor
    losses_T: Tensor
    weighted_sum: Tensor


class HeadLoss(Protocol):
    """Interface of the output head: computes losses from hidden states, head weight and targets."""

    def sums(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits,
        z_loss: float,
        short: ShortContext | None,
    ) -> LossSums:
        """Summed losses of the stream. short: weighs its tokens; None: all weigh 1."""

    def per_token(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits,
    ) -> Tensor:
        """Natural-log losses (T,), 0 where ignored, without gradients."""

    def predictions(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits,
    ) -> Predictions:
        """The predicted id, and rank and loss of the target, after every token that has one, without gradients."""


# What a walk over the chunks returns: weighted_sum, loss_sum, z_sum, losses_T, d total / d hidden, d total / d weight.
# A gradient is None where it was not requested; that of the weight is a sum over chunks, in float32 or float64.
Walked = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
# walk(hidden_TD, weight_VD, wants_d_hidden, wants_d_weight)
Walk = Callable[[Tensor, Tensor, bool, bool], Walked]


def sums_of_walk(walk: Walk, hidden_TD: Tensor, weight_VD: Tensor, z_loss: float) -> LossSums:
    """Runs one walk and returns its sums; `total` is differentiable where gradients are enabled. See `LossSums`."""
    wants_gradients = torch.is_grad_enabled() and (
        hidden_TD.requires_grad or weight_VD.requires_grad
    )
    if wants_gradients:
        total, weighted_sum, loss_sum, z_sum, losses_T = _MadeInForward.apply(  # type: ignore[no-untyped-call]
            hidden_TD, weight_VD, walk, z_loss
        )
    else:
        with torch.no_grad():
            weighted_sum, loss_sum, z_sum, losses_T, *_ = walk(hidden_TD, weight_VD, False, False)
            total = weighted_sum + z_loss * z_sum
    return LossSums(total, loss_sum, z_sum, losses_T, weighted_sum)


class ChunkedLoss:
    """The head loss of one device that holds the whole vocabulary.

    compiled: compile the work on a chunk's logits into one pass that reads and one that writes.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self._of_chunk = torch.compile(chunk_at_once) if compiled else chunk_in_place

    def sums(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits = UNCHANGED,
        z_loss: float = 0.0,
        short: ShortContext | None = None,
    ) -> LossSums:
        """See `LossSums`. targets_T: int64 (T,), -100 is ignored. short: weighs its tokens."""
        walk = partial(
            _walk,
            of_chunk=partial(self._of_chunk, logits=logits, z_loss=z_loss),
            targets_T=targets_T,
            short=short,
        )
        return sums_of_walk(walk, hidden_TD, weight_VD, z_loss)

    @torch.no_grad()
    def per_token(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits = UNCHANGED,
    ) -> Tensor:
        """Natural-log losses (T,) in float32 (float64 for float64 input), 0 where ignored."""
        losses_T = hidden_TD.new_zeros(len(targets_T), dtype=statistics_dtype(hidden_TD.dtype))
        weight_VD = for_product(weight_VD)
        for rows in _chunks(hidden_TD, weight_VD.shape[0]):
            logits_CV = logits.in_place(for_product(hidden_TD[rows]) @ weight_VD.t())
            losses_T[rows], _ = _losses(logits_CV, targets_T[rows])
        return losses_T

    def predictions(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits = UNCHANGED,
    ) -> Predictions:
        """See `Predictions`."""
        return predictions(hidden_TD, weight_VD, targets_T, logits)


class OfChunk(Protocol):
    """Computes the losses and the gradient of one chunk from its logits."""

    def __call__(
        self,
        logits_CV: Tensor,
        targets_C: Tensor,
        *,
        logits: Logits,
        z_loss: float,
        wants_gradient: bool,
        short: ShortContext | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (C,), log-sum-exps (C,), and d total / d product (C, V) if `wants_gradient`.

        logits_CV: the product h W^T, not scaled; may be overwritten. Losses and log-sum-exps are 0 where the
        target is ignored, in the dtype of sums (`statistics_dtype`). short: of the chunk's tokens.
        """


def _walk(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    wants_d_hidden: bool,
    wants_d_weight: bool,
    *,
    of_chunk: Callable[..., tuple[Tensor, Tensor, Tensor]],
    targets_T: Tensor,
    short: ShortContext | None,
) -> Walked:
    """Walks over the chunks of one stream; see `Walked`. of_chunk: an `OfChunk` with logits and z_loss bound."""
    wide = statistics_dtype(hidden_TD.dtype)
    weighted_sum, loss_sum, z_sum = hidden_TD.new_zeros((3,), dtype=wide)
    losses_T = hidden_TD.new_empty(len(targets_T), dtype=wide)
    d_hidden_TD = torch.empty_like(hidden_TD) if wants_d_hidden else None
    d_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if wants_d_weight else None
    weight_VD = for_product(weight_VD)
    for rows in _chunks(hidden_TD, weight_VD.shape[0]):
        hidden_CD = for_product(hidden_TD[rows])
        of_rows = None if short is None else short.of(short.losses_T[rows])
        losses_C, lse_C, d_logits_CV = of_chunk(
            hidden_CD @ weight_VD.t(),
            targets_T[rows],
            wants_gradient=wants_d_hidden or wants_d_weight,
            short=of_rows,
        )
        losses_T[rows] = losses_C
        loss_sum += losses_C.sum()
        token_C = None if of_rows is None else of_rows.weights(losses_C)
        weighted_sum += weighted(losses_C, token_C).sum()
        z_sum += lse_C.square().sum()
        if d_hidden_TD is not None:
            put_product(d_hidden_TD[rows], d_logits_CV, weight_VD)
        if d_weight_VD is not None:
            add_product(d_weight_VD, d_logits_CV.t(), hidden_CD)
    return weighted_sum, loss_sum, z_sum, losses_T, d_hidden_TD, d_weight_VD


def chunk_in_place(
    logits_CV: Tensor,
    targets_C: Tensor,
    *,
    logits: Logits,
    z_loss: float,
    wants_gradient: bool,
    short: ShortContext | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `OfChunk`: in eager mode with few passes over the logits, which dominate the cost beside the products."""
    wide_CV = logits.in_place(logits_CV)
    if not wants_gradient:
        return *_losses(wide_CV, targets_C), logits_CV
    column_C1, valid_C = columns(wide_CV, targets_C, 0)[0][:, None], targets_C != IGNORE
    log_p_CV = wide_CV.log_softmax(dim=-1)
    log_p_C = log_p_CV.gather(1, column_C1).squeeze(1)
    lse_C = wide_CV.gather(1, column_C1).squeeze(1) - log_p_C
    p_CV = log_p_CV.exp_()
    losses_C = torch.where(valid_C, -log_p_C, 0.0)
    token_C = None if short is None else short.weights(losses_C)
    d_logits_CV = gradient_in_place(
        p_CV, targets_C, lse_C, logits=logits, z_loss=z_loss, token_C=token_C
    )
    if logits.softcap:
        d_logits_CV.mul_(logits.slope(wide_CV))
    return losses_C, torch.where(valid_C, lse_C, 0.0), d_logits_CV.to(logits_CV.dtype)


def chunk_at_once(
    logits_CV: Tensor,
    targets_C: Tensor,
    *,
    logits: Logits,
    z_loss: float,
    wants_gradient: bool,
    short: ShortContext | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `OfChunk`: formulas for `torch.compile`, which recomputes the scaled logits in every pass."""
    wide_CV = logits.of(logits_CV)
    lse_C = wide_CV.logsumexp(dim=-1)
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == targets_C[:, None]
    picked_C = torch.where(is_target_CV, wide_CV, 0.0).sum(dim=-1)
    valid_C = targets_C != IGNORE
    losses_C, valid_lse_C = valid_losses(lse_C, picked_C, targets_C)
    if wants_gradient:
        is_target_CV = is_target_CV.to(lse_C.dtype)
        token_C1: Tensor | float = 1.0
        if short is not None:
            token_C1 = short.weights(losses_C)[:, None]
            is_target_CV = is_target_CV * token_C1
        p_CV = (wide_CV - lse_C[:, None]).exp() * (token_C1 + 2 * z_loss * lse_C[:, None])
        d_logits_CV = torch.where(valid_C[:, None], p_CV - is_target_CV, 0.0)
        logits_CV = (d_logits_CV * logits.slope(wide_CV)).to(logits_CV.dtype)
    return losses_C, valid_lse_C, logits_CV


class _MadeInForward(torch.autograd.Function):
    """Computes loss and gradients in one walk over the chunks; the backward only scales the gradients."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, walk: Walk, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        wants_d_hidden, wants_d_weight = ctx.needs_input_grad[:2]
        weighted_sum, loss_sum, z_sum, losses_T, *gradients = walk(
            hidden_TD, weight_VD, wants_d_hidden, wants_d_weight
        )
        ctx.save_for_backward(*gradients)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(weighted_sum, loss_sum, z_sum, losses_T)
        return weighted_sum + z_loss * z_sum, weighted_sum, loss_sum, z_sum, losses_T

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_total: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        d_hidden_TD, d_weight_VD = ctx.saved_tensors
        if d_hidden_TD is not None:
            d_hidden_TD = d_hidden_TD * d_total.to(d_hidden_TD.dtype)
        if d_weight_VD is not None:
            d_weight_VD = (d_weight_VD * d_total).to(ctx.weight_dtype)
        return d_hidden_TD, d_weight_VD, None, None


def put_product(result_CD: Tensor, left_CV: Tensor, right_VD: Tensor) -> None:
    """result = left @ right, rounded to the dtype of the result."""
    if result_CD.dtype == left_CV.dtype:
        torch.mm(left_CV, right_VD, out=result_CD)
    else:
        result_CD.copy_(left_CV @ right_VD)


def add_product(sum_VD: Tensor, left_VC: Tensor, right_CD: Tensor) -> None:
    """sum += left @ right. A CPU rounds a half-precision product before it is added; CUDA does not."""
    if left_VC.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_VC, right_CD)
    elif sum_VD.is_cuda:
        torch.ops.aten.addmm.dtype_out(sum_VD, left_VC, right_CD, sum_VD.dtype, out=sum_VD)
    else:
        sum_VD += left_VC @ right_CD


def _chunks(hidden_TD: Tensor, vocab_size: int) -> list[slice]:
    return chunks_of(hidden_TD.shape[0], rows_at_once(hidden_TD, vocab_size))


def _losses(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (C,) and log-sum-exps (C,), both 0 where the target is ignored."""
    return valid_losses(logits_CV.logsumexp(dim=-1), picked_logits(logits_CV, targets_C), targets_C)


def valid_losses(lse_C: Tensor, picked_C: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """Losses lse - picked and the lse themselves, both 0 where the target is ignored."""
    valid_C = targets_C != IGNORE
    zero = lse_C.new_zeros(())
    return torch.where(valid_C, lse_C - picked_C, zero), torch.where(valid_C, lse_C, zero)


def weighted(losses_C: Tensor, token_C: Tensor | None) -> Tensor:
    """Losses with the weights of their tokens; None: all weigh 1."""
    return losses_C if token_C is None else losses_C * token_C


def gradient_in_place(
    p_CV: Tensor,
    targets_C: Tensor,
    lse_C: Tensor,
    *,
    logits: Logits,
    z_loss: float,
    first: int = 0,
    token_C: Tensor | None = None,
) -> Tensor:
    """Overwrites probabilities of the vocabulary columns from `first` on with d total / d product.

    With a softcap the result is d total / d logits: the caller multiplies it by the slope, which differs by element.
    Rows with an ignored target become zero. lse_C: log-sum-exp of every row over the whole vocabulary. token_C: weights
    of the tokens' losses; None: all weigh 1.
    """
    column_C, held_C = columns(p_CV, targets_C, first)
    # Zero where the target is ignored.
    scale_C = (targets_C != IGNORE).to(lse_C.dtype) * (1.0 if logits.softcap else logits.scale)
    of_target_C = scale_C if token_C is None else scale_C * token_C
    gradient_CV = p_CV.mul_(
        (scale_C * ((1 if token_C is None else token_C) + 2 * z_loss * lse_C))[:, None]
    )
    return gradient_CV.scatter_add_(1, column_C[:, None], -(of_target_C * held_C)[:, None])
