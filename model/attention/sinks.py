r"""Sinks: a learned logit for every head that takes part of the attention and gives nothing back.

    o = sum_j exp(s_j) v_j / (sum_j exp(s_j) + exp(sink))

It is one more key whose value is zero. So a kernel need not know of it: with its output o and log-sum-exp l

    l' = log(exp(l) + exp(sink))        o' = exp(l - l') o

and a kernel's backward, handed o' and l', gives the true gradients, since every pair's probability is
exp(s - l'). What is left is the sink's own gradient, - sum_t exp(sink - l'_t) <do_t, o'_t>.

Source: the released code of gpt-oss. Shape letters: T tokens, H query heads, K head dimension.
"""

import torch
from torch import Tensor, nn

from model.norm import statistics_dtype


class Sinks(nn.Module):
    """The sinks of one layer, a parameter `weight` (H,)."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads))

    def forward(self) -> Tensor:
        """A copy: where parameters are sharded, the weight itself is there only in here."""
        return self.weight.clone()


def with_sinks(o_THK: Tensor, lse_TH: Tensor, sinks_H: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp beside the sinks, if there are any; the output keeps its dtype."""
    if sinks_H is None:
        return o_THK, lse_TH
    joined_TH = lse_TH.logaddexp(sinks_H.to(lse_TH.dtype))
    weight_TH1 = (lse_TH - joined_TH).exp()[..., None]
    return (o_THK.to(lse_TH.dtype) * weight_TH1).to(o_THK.dtype), joined_TH


def sinks_gradient(
    do_THK: Tensor, o_THK: Tensor, lse_TH: Tensor, sinks_H: Tensor | None
) -> Tensor | None:
    """Gradient of the sinks (H,), given output and log-sum-exp beside them; None without sinks."""
    if sinks_H is None:
        return None
    wide = statistics_dtype(o_THK.dtype)
    p_TH = (sinks_H.to(wide) - lse_TH.to(wide)).exp()
    given_TH = (do_THK.to(wide) * o_THK.to(wide)).sum(dim=-1)
    return -(p_TH * given_TH).sum(dim=0).to(sinks_H.dtype)
