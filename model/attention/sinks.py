r"""Attention sinks: a learned logit per head that enters the softmax and has no value.

    o = sum_j exp(s_j) v_j / (sum_j exp(s_j) + exp(sink))

A sink is one more key whose value is zero. Kernels need no support for it: from a kernel's output o and log-sum-exp l

    l' = log(exp(l) + exp(sink))        o' = exp(l - l') o

and a kernel's backward, called with o' and l', returns the correct gradients, since every pair's probability is
exp(s - l'). Only the sink's own gradient must be added: - sum_t exp(sink - l'_t) <do_t, o'_t>.

Source: the released code of gpt-oss. Shape letters: T tokens, H query heads, K head dimension.
"""

from torch import Tensor

from model.norm import statistics_dtype


def with_sinks(o_THK: Tensor, lse_TH: Tensor, sinks_H: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp with the sinks in the softmax, unchanged if None; the output keeps its dtype."""
    if sinks_H is None:
        return o_THK, lse_TH
    joined_TH = lse_TH.logaddexp(sinks_H.to(lse_TH.dtype))
    weight_TH1 = (lse_TH - joined_TH).exp()[..., None]
    return (o_THK.to(lse_TH.dtype) * weight_TH1).to(o_THK.dtype), joined_TH


def sinks_gradient(
    do_THK: Tensor, o_THK: Tensor, lse_TH: Tensor, sinks_H: Tensor | None
) -> Tensor | None:
    """Gradient of the sinks (H,), from output and log-sum-exp that include them; None without sinks."""
    if sinks_H is None:
        return None
    wide = statistics_dtype(o_THK.dtype)
    p_TH = (sinks_H.to(wide) - lse_TH.to(wide)).exp()
    given_TH = (do_THK.to(wide) * o_THK.to(wide)).sum(dim=-1)
    return -(p_TH * given_TH).sum(dim=0).to(sinks_H.dtype)
