"""Softmax attention over a batch of small problems, forward and backward.

The banded core and ring attention cut a packed stream into such problems and differentiate through
them by hand, so they need both directions as plain functions. On CPU they are torch's flash kernels, which never
hold the probabilities; elsewhere they are the formulas:

    p = softmax(q k^T / sqrt(K) + mask)      o = p v
    dv = p^T do      ds = p * (do v^T - rowsum(do * o)) / sqrt(K)      dq = ds k      dk = ds^T q

With a softcap c, scores s become c tanh(s / c), whose slope 1 - (tanh)^2 multiplies ds: always by the formulas.

Shape letters: N problems, H query heads, G key/value heads, L queries, S keys, K head dimension.
"""

import torch
from torch import Tensor

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(
    q_NHLK: Tensor,
    k_NGSK: Tensor,
    v_NGSK: Tensor,
    mask_LS: Tensor | None,
    *,
    causal: bool = True,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Output (N, H, L, K) and natural log-sum-exp of the scores (N, H, L).

    mask_LS is added to the scores and shared by all problems and heads; it has the dtype of the
    queries. Without one the problem is causal, which asks for as many keys as queries, or, if not
    `causal`, every query sees every key. Every query must see a key.
    """
    if softcap or not q_NHLK.is_cpu:
        return attend_by_formula(q_NHLK, k_NGSK, v_NGSK, mask_LS, causal=causal, softcap=softcap)
    o_NHLK, lse_NHL = _FLASH(
        q_NHLK,
        k_NGSK,
        v_NGSK,
        is_causal=causal and mask_LS is None,
        attn_mask=_for_all(mask_LS),
    )
    return o_NHLK, lse_NHL


def attend_backward(
    do_NHLK: Tensor,
    q_NHLK: Tensor,
    k_NGSK: Tensor,
    v_NGSK: Tensor,
    o_NHLK: Tensor,
    lse_NHL: Tensor,
    mask_LS: Tensor | None,
    *,
    causal: bool = True,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, given what `attend` took and gave.

    Where the keys are only a part of what the queries see, o_NHLK and lse_NHL are those of the whole:
    the gradients are then this part's share of it.
    """
    if softcap or not q_NHLK.is_cpu:
        return backward_by_formula(
            do_NHLK,
            q_NHLK,
            k_NGSK,
            v_NGSK,
            o_NHLK,
            lse_NHL,
            mask_LS,
            causal=causal,
            softcap=softcap,
        )
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


def attend_by_formula(
    q_NHLK: Tensor,
    k_NGSK: Tensor,
    v_NGSK: Tensor,
    mask_LS: Tensor | None,
    *,
    causal: bool = True,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`attend` on any device; holds the scores."""
    scores_NHLS = _masked(_scores(q_NHLK, k_NGSK, softcap), mask_LS, causal)
    lse_NHL = scores_NHLS.logsumexp(dim=-1)
    p_NHLS = (scores_NHLS - lse_NHL[..., None]).exp()
    return p_NHLS @ _per_query_head(v_NGSK, q_NHLK), lse_NHL


def backward_by_formula(
    do_NHLK: Tensor,
    q_NHLK: Tensor,
    k_NGSK: Tensor,
    v_NGSK: Tensor,
    o_NHLK: Tensor,
    lse_NHL: Tensor,
    mask_LS: Tensor | None,
    *,
    causal: bool = True,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend_backward` on any device; holds the scores."""
    scores_NHLS = _scores(q_NHLK, k_NGSK, softcap)
    p_NHLS = (_masked(scores_NHLS, mask_LS, causal) - lse_NHL[..., None]).exp()
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


def _scores(q_NHLK: Tensor, k_NGSK: Tensor, softcap: float) -> Tensor:
    scores_NHLS: Tensor = q_NHLK @ _per_query_head(k_NGSK, q_NHLK).mT * q_NHLK.shape[-1] ** -0.5
    return softcap * torch.tanh(scores_NHLS / softcap) if softcap else scores_NHLS


def _masked(scores_NHLS: Tensor, mask_LS: Tensor | None, causal: bool) -> Tensor:
    if mask_LS is None and not causal:
        return scores_NHLS
    if mask_LS is None:
        seen_LS = torch.ones(
            scores_NHLS.shape[-2:], dtype=torch.bool, device=scores_NHLS.device
        ).tril()
        return scores_NHLS.masked_fill(~seen_LS, float("-inf"))
    return scores_NHLS + mask_LS


def _per_query_head(x_NGSK: Tensor, q_NHLK: Tensor) -> Tensor:
    return x_NGSK.repeat_interleave(q_NHLK.shape[1] // x_NGSK.shape[1], dim=1)


def _sum_groups(x_NHSK: Tensor, like_NGSK: Tensor) -> Tensor:
    problems, groups, keys, width = like_NGSK.shape
    return x_NHSK.reshape(problems, groups, -1, keys, width).sum(dim=2)
