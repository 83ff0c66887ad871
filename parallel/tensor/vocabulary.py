"""Embedding and chunked head loss with the vocabulary cut among tensor ranks.

Rank r holds the r-th part of the vocabulary's rows, and the hidden states of its own tokens. The loss processes the
tokens in chunks of the same few rows of EVERY rank's part, so that one gather collects a chunk, and no rank ever
holds all hidden states or all logits:

    rank 0's tokens  [ c0 | c1 | c2 ]      chunk c1 = rows c1 of rank 0, rows c1 of rank 1
    rank 1's tokens  [ c0 | c1 | c2 ]      (which tokens these are: `by_rank`)

    gather c1's hidden states      while c0 is computed
    logits of this rank's columns  -> their log-sum-exp and the target's logit -> gathered: two numbers a token
    gradient of these logits       -> partial d hidden, scattered and summed while c2's logits are computed
                                   -> d weight of this rank's rows, complete

The log-sum-exp over the vocabulary is that of the parts' log-sum-exps. All ranks combine the same numbers in the
same order, so every rank has the same loss, bit by bit.

Shape letters: T tokens, C tokens of one chunk, D width, V this rank's part of the vocabulary, N tensor ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.logits import IGNORE, UNCHANGED, Logits, chunks_of, picked_logits, rows_at_once
from model.long_ce import ShortContext
from model.loss import (
    LossSums,
    Walked,
    add_product,
    gradient_in_place,
    sums_of_walk,
    valid_losses,
    weighted,
)
from model.norm import statistics_dtype
from model.predictions import Predictions, count_before, nothing_predicted
from model.products import for_product
from parallel.collectives import add_up, launch_exchange, launch_gather
from parallel.mesh import AxisGroup
from parallel.tensor.residual import by_rank, in_stream_order, leave
from parallel.transfer import Transfer


class VocabularyParallelEmbedding(nn.Module):
    """Looks up the tokens of this rank's part of the vocabulary; a reduce-scatter gives each rank its tokens' rows."""

    def __init__(self, weight_VD: nn.Parameter, group: AxisGroup) -> None:
        super().__init__()
        self.weight = weight_VD
        self._group = group

    def forward(self, tokens_T: Tensor) -> Tensor:
        """int64 (T,), all tokens, to (T / n, D). Exact: all summands but one are zero. Collective.

        Raises:
            IndexError: on every rank, an id is not in the whole vocabulary (on a GPU: torch's device assertion, as for
                an embedding that is not cut; the host does not wait).
        """
        num_rows = self.weight.shape[0]
        holder_T = tokens_T // num_rows
        elsewhere_T = holder_T != self._group.rank
        # The remainder is this rank's row, or some row for tokens of other ranks: their lookups are masked. They are
        # spread over the rows, so that the backward does not add all of them to one. An id outside the vocabulary
        # stays outside.
        row_T = tokens_T - holder_T.clamp(0, self._group.size - 1) * num_rows
        x_TD = F.embedding(row_T, self.weight)
        return leave(x_TD.masked_fill(elsewhere_T[:, None], 0.0), self._group)


class VocabularyParallelLoss:
    """The head loss with hidden states cut by tokens and the head cut by vocabulary.

    hidden_TD is (T / n, D), weight_VD this rank's rows, targets_T of ALL tokens (T,), on every rank. Losses
    are equal on all ranks; gradients are of that one loss, not of a sum over ranks.
    """

    def __init__(self, group: AxisGroup) -> None:
        self._group = group

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
        """Returns the `LossSums` of all tokens, on every rank. Collective. short: weighs ALL tokens, on every rank."""
        scored = _Scored.by_rank(targets_T, short, self._group.size)
        walk = partial(self._walk, scored=scored, logits=logits, z_loss=z_loss)
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
        """Returns the losses of all tokens (T,) in nats, on every rank, 0 where ignored. Collective."""
        targets_NT = by_rank(targets_T, self._group.size)
        losses_NT = torch.empty_like(targets_NT, dtype=statistics_dtype(hidden_TD.dtype))
        weight_VD = for_product(weight_VD)
        for rows, hidden_CD in self._chunks(hidden_TD, weight_VD):
            logits_CV = logits.in_place(hidden_CD @ weight_VD.t())
            targets_C = targets_NT[:, rows].flatten()
            losses_C, _ = valid_losses(*self._gathered(logits_CV, targets_C), targets_C)
            losses_NT[:, rows] = losses_C.view(self._group.size, -1)
        return in_stream_order(losses_NT)

    @torch.no_grad()
    def predictions(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        *,
        logits: Logits = UNCHANGED,
    ) -> Predictions:
        """Returns the predictions of all tokens, on every rank. Collective.

        A rank gathers the hidden states of scored tokens alone: of every rank's tokens as many as the rank with the
        most has; those without a target fill up.
        """
        targets_NT = by_rank(targets_T, self._group.size)
        scored_NT = targets_NT != IGNORE
        most = int(scored_NT.sum(dim=1).max())
        found = nothing_predicted(hidden_TD, targets_NT)
        if most:
            order_NT = scored_NT.int().argsort(dim=1, descending=True, stable=True)[:, :most]
            weight_VD = for_product(weight_VD)
            hidden_TD = hidden_TD[order_NT[self._group.rank]]
            for rows, hidden_CD in self._chunks(hidden_TD, weight_VD):
                places_NC = order_NT[:, rows]
                targets_NC = targets_NT.gather(1, places_NC)
                logits_CV = logits.in_place(hidden_CD @ weight_VD.t())
                of_chunk = self._predicted(logits_CV, targets_NC.flatten())
                for into_NT, values_C in zip(found.tensors(), of_chunk.tensors(), strict=True):
                    into_NT.scatter_(1, places_NC, values_C.view_as(places_NC))
        return Predictions(*(in_stream_order(one_NT) for one_NT in found.tensors()))

    def _walk(
        self,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        wants_d_hidden: bool,
        wants_d_weight: bool,
        *,
        scored: "_Scored",
        logits: Logits,
        z_loss: float,
    ) -> Walked:
        wide = statistics_dtype(hidden_TD.dtype)
        weighted_sum, loss_sum, z_sum = hidden_TD.new_zeros((3,), dtype=wide)
        returning = _Returning(torch.empty_like(hidden_TD), self._group)
        d_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if wants_d_weight else None
        losses_NT = torch.empty_like(scored.targets_NT, dtype=wide)
        weight_VD = for_product(weight_VD)
        for rows, hidden_CD in self._chunks(hidden_TD, weight_VD):
            targets_C, short = scored.of(rows)
            logits_CV = logits.in_place(hidden_CD @ weight_VD.t())
            lse_C, picked_C = self._gathered(logits_CV, targets_C)
            losses_C, valid_lse_C = valid_losses(lse_C, picked_C, targets_C)
            losses_NT[:, rows] = losses_C.view(self._group.size, -1)
            token_C = None if short is None else short.weights(losses_C)
            loss_sum += losses_C.sum()
            weighted_sum += weighted(losses_C, token_C).sum()
            z_sum += valid_lse_C.square().sum()
            if not wants_d_hidden and d_weight_VD is None:
                continue
            first = self._group.rank * weight_VD.shape[0]
            slope = logits.slope(logits_CV)
            p_CV = logits_CV.sub_(lse_C[:, None]).exp_()
            d_logits_CV = gradient_in_place(
                p_CV,
                targets_C,
                lse_C,
                logits=logits,
                z_loss=z_loss,
                first=first,
                token_C=token_C,
            )
            if logits.softcap:
                d_logits_CV.mul_(slope)
            d_logits_CV = d_logits_CV.to(weight_VD.dtype)
            if wants_d_hidden:
                returning.send(rows, (d_logits_CV @ weight_VD).to(hidden_TD.dtype))
            if d_weight_VD is not None:
                add_product(d_weight_VD, d_logits_CV.t(), hidden_CD)
        d_hidden_TD = returning.all_arrived() if wants_d_hidden else None
        losses_T = in_stream_order(losses_NT)
        return weighted_sum, loss_sum, z_sum, losses_T, d_hidden_TD, d_weight_VD

    def _chunks(self, hidden_TD: Tensor, weight_VD: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yields the rows of a chunk in each rank's part, and their hidden states from all ranks, (n * rows, D).

        The transfer of the next chunk overlaps with the caller's computation.
        """
        at_once = rows_at_once(hidden_TD, weight_VD.shape[0])
        chunks = chunks_of(hidden_TD.shape[0], max(1, at_once // self._group.size))
        arriving = launch_gather(hidden_TD[chunks[0]], self._group)
        for index, rows in enumerate(chunks):
            hidden_CD = arriving.wait()
            if index + 1 < len(chunks):
                arriving = launch_gather(hidden_TD[chunks[index + 1]], self._group)
            yield rows, for_product(hidden_CD)

    def _gathered(self, logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
        """Returns log-sum-exps over the whole vocabulary, and the targets' logits, of every row. Collective."""
        first = self._group.rank * logits_CV.shape[1]
        own_2C = torch.stack(
            (logits_CV.logsumexp(dim=-1), picked_logits(logits_CV, targets_C, first))
        )
        parts_N2C = self._parts(own_2C)
        return parts_N2C[:, 0].logsumexp(0), parts_N2C[:, 1].sum(0)

    def _predicted(self, logits_CV: Tensor, targets_C: Tensor) -> Predictions:
        """Returns the predictions over the whole vocabulary, of every row. Collective."""
        first = self._group.rank * logits_CV.shape[1]
        column_C = logits_CV.argmax(dim=1)
        largest_C = logits_CV.gather(1, column_C[:, None]).squeeze(1)
        picked_C, lse_C = picked_logits(logits_CV, targets_C, first), logits_CV.logsumexp(dim=1)
        # float64 holds every id and every logit exactly.
        own_4C = torch.stack(
            [x_C.double() for x_C in (picked_C, lse_C, largest_C, column_C + first)]
        )
        picked_NC, lse_NC, largest_NC, id_NC = self._parts(own_4C).unbind(1)
        picked_C = picked_NC.sum(0).to(logits_CV.dtype)
        before_C = self._parts(count_before(logits_CV, picked_C, targets_C, first)).sum(0)
        # The first rank among equals holds the lowest ids.
        id_C = id_NC.gather(0, largest_NC.argmax(0)[None]).squeeze(0).long()
        has_none_C = targets_C == IGNORE
        losses_C = (lse_NC.logsumexp(0) - picked_NC.sum(0)).to(logits_CV.dtype)
        return Predictions(
            id_C.masked_fill(has_none_C, IGNORE),
            before_C.masked_fill(has_none_C, IGNORE),
            losses_C.masked_fill(has_none_C, 0.0),
        )

    def _parts(self, own: Tensor) -> Tensor:
        """Returns the tensors `own` of all ranks, in order. Collective."""
        return launch_gather(own, self._group).wait().view(-1, *own.shape)


@dataclass(frozen=True)
class _Scored:
    """Targets of ALL tokens, and what weighs their losses, by the rank that holds the token's hidden state."""

    targets_NT: Tensor
    short: ShortContext | None

    @classmethod
    def by_rank(cls, targets_T: Tensor, short: ShortContext | None, size: int) -> "_Scored":
        own = None if short is None else short.of(by_rank(short.losses_T, size))
        return cls(by_rank(targets_T, size), own)

    def of(self, rows: slice) -> tuple[Tensor, ShortContext | None]:
        """Those of the same rows of every rank's part."""
        short = self.short
        of_rows = None if short is None else short.of(short.losses_T[:, rows].flatten())
        return self.targets_NT[:, rows].flatten(), of_rows


class _Returning:
    """The reduce-scatter of partial gradients of hidden states, one chunk in transfer at a time."""

    def __init__(self, d_hidden_TD: Tensor, group: AxisGroup) -> None:
        self._d_hidden_TD = d_hidden_TD
        self._group = group
        self._under_way: tuple[slice, Transfer] | None = None

    def send(self, rows: slice, partial_CD: Tensor) -> None:
        """Waits for the previous chunk, whose transfer overlapped with this one's products, and starts this one."""
        self._finish()
        self._under_way = rows, launch_exchange(partial_CD, self._group)

    def all_arrived(self) -> Tensor:
        """Waits for the last chunk; returns the sums of this rank's tokens, (T / n, D)."""
        self._finish()
        return self._d_hidden_TD

    def _finish(self) -> None:
        if self._under_way is not None:
            rows, transfer = self._under_way
            self._d_hidden_TD[rows] = add_up(transfer.wait(), self._group.size)
            self._under_way = None
