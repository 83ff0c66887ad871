"""Softmax attention over a batch of small problems, forward and backward.

The banded core and ring attention cut a packed stream into such problems and have backwards of their own,
so they need forward and backward as plain functions. On CPU these are torch's flash kernels, which never
store the probabilities; elsewhere they are the formulas:

    p = softmax(q k^T / sqrt(K) + mask)      o = p v
    dv = p^T do      ds = p * (do v^T - rowsum(do * o)) / sqrt(K)      dq = ds k      dk = ds^T q

With a softcap c, scores s become c tanh(s / c), whose slope 1 - (tanh)^2 multiplies ds; the formulas are always used.

Shape letters: N problems, H query heads, G key/value heads, L queries, S keys, K head dimension.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Problem(NamedTuple):
    """A batch of problems of equal shape. Every query must see a key.

    mask_LS is added to the scores and shared by all problems and heads; it has the dtype of the queries. Without a mask
    the problem is causal, which requires as many keys as queries, or, if not `causal`, every query sees every key.
    softcap: cap of the scores; 0: none.
    """

    q_NHLK: Tensor
    k_NGSK: Tensor
    v_NGSK: Tensor
    mask_LS: Tensor | None = None
    causal: bool = True
    softcap: float = 0.0

    @property
    def takes_formula(self) -> bool:
        """Whether the formulas are needed because torch's CPU flash kernels do not support the problem."""
        return bool(self.softcap) or not self.q_NHLK.is_cpu


def attend(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output (N, H, L, K) and natural log-sum-exp of the scores (N, H, L)."""
    if problem.takes_formula:
        return attend_by_formula(problem)
    q_NHLK, k_NGSK, v_NGSK, mask_LS, causal, _ = problem
    o_NHLK, lse_NHL = _FLASH(
        q_NHLK,
        k_NGSK,
        v_NGSK,
        is_causal=causal and mask_LS is None,
        attn_mask=_for_all(mask_LS),
    )
    return o_NHLK, lse_NHL


def attend_backward(
    do_NHLK: Tensor, problem: Problem, o_NHLK: Tensor, lse_NHL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, from the input and output of `attend`.

    If the queries see more keys than these, pass o_NHLK and lse_NHL over all keys: the result is then
    the share of these keys in the gradients.
    """
    if problem.takes_formula:
        return backward_by_formula(do_NHLK, problem, o_NHLK, lse_NHL)
    q_NHLK, k_NGSK, v_NGSK, mask_LS, causal, _ = problem
    dq_NHLK, dk_NGSK, dv_NGSK = _FLASH_BACKWARD(
        do_NHLK,
        q_NHLK,
        k_NGSK,
        v_NGSK,
        o_NHLK,
        lse_NHL,
        0.0,
        causal and mask_LS is None,
        attn_mask=_for_all(mask_LS),
    )
    return dq_NHLK, dk_NGSK, dv_NGSK


def attend_by_formula(problem: Problem) -> tuple[Tensor, Tensor]:
    """`attend` on any device; stores the scores."""
    scores_NHLS = _masked(_scores(problem), problem)
    lse_NHL = scores_NHLS.logsumexp(dim=-1)
    p_NHLS = (scores_NHLS - lse_NHL[..., None]).exp()
    return p_NHLS @ _per_query_head(problem.v_NGSK, problem.q_NHLK), lse_NHL


def backward_by_formula(
    do_NHLK: Tensor, problem: Problem, o_NHLK: Tensor, lse_NHL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` on any device; stores the scores."""
    q_NHLK, k_NGSK, v_NGSK, _, _, softcap = problem
    scores_NHLS = _scores(problem)
    p_NHLS = (_masked(scores_NHLS, problem) - lse_NHL[..., None]).exp()
    dp_NHLS = do_NHLK @ _per_query_head(v_NGSK, q_NHLK).mT
    ds_NHLS = p_NHLS * (dp_NHLS - (do_NHLK * o_NHLK).sum(dim=-1, keepdim=True))
    if softcap:
        ds_NHLS = ds_NHLS * (1.0 - (scores_NHLS / softcap).square())
    ds_NHLS = ds_NHLS * q_NHLK.shape[-1] ** -0.5
    dq_NHLK = ds_NHLS @ _per_query_head(k_NGSK, q_NHLK)
    dk_NGSK = _sum_groups(ds_NHLS.mT @ q_NHLK, k_NGSK)
    dv_NGSK = _sum_groups(p_NHLS.mT @ do_NHLK, v_NGSK)
    return dq_NHLK, dk_NGSK, dv_NGSK


def _for_all(mask_LS: Tensor | None) -> Tensor | None:
    return None if mask_LS is None else mask_LS[None, None]


def _scores(problem: Problem) -> Tensor:
    q_NHLK, softcap = problem.q_NHLK, problem.softcap
    k_NHSK = _per_query_head(problem.k_NGSK, q_NHLK)
    scores_NHLS: Tensor = q_NHLK @ k_NHSK.mT * q_NHLK.shape[-1] ** -0.5
    return softcap * torch.tanh(scores_NHLS / softcap) if softcap else scores_NHLS


def _masked(scores_NHLS: Tensor, problem: Problem) -> Tensor:
    if problem.mask_LS is not None:
        return scores_NHLS + problem.mask_LS
    if not problem.causal:
        return scores_NHLS
    seen_LS = torch.ones(scores_NHLS.shape[-2:], dtype=torch.bool, device=scores_NHLS.device).tril()
    return scores_NHLS.masked_fill(~seen_LS, float("-inf"))


def _per_query_head(x_NGSK: Tensor, q_NHLK: Tensor) -> Tensor:
    return x_NGSK.repeat_interleave(q_NHLK.shape[1] // x_NGSK.shape[1], dim=1)


def _sum_groups(x_NHSK: Tensor, like_NGSK: Tensor) -> Tensor:
    problems, groups, keys, width = like_NGSK.shape
    return x_NHSK.reshape(problems, groups, -1, keys, width).sum(dim=2)
