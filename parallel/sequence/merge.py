r"""Merges attention over disjoint parts of the keys into attention over all of them.

A query's output and log-sum-exp over a part A of its keys are

    o_A = sum_A exp(s) v / sum_A exp(s)          l_A = log sum_A exp(s)

and the same over a second, disjoint part B. Over both:

    l = log(exp(l_A) + exp(l_B))                 o = exp(l_A - l) o_A + exp(l_B - l) o_B

Nothing overflows: l is at least the larger of both and at most log 2 more, so neither weight exceeds 1. The backward
needs no merging: with the final l and o every pair's probability is exp(s - l), so each part's kernel computes
its own share of dq, dk and dv.

Shape letters: T queries, H query heads, K head dimension.
"""

from torch import Tensor


def put_part(o_THK: Tensor, lse_TH: Tensor, part_THK: Tensor, part_lse_TH: Tensor) -> None:
    """Writes the first (or only) part of these queries."""
    o_THK.copy_(part_THK)
    lse_TH.copy_(part_lse_TH)


def merge_part(o_THK: Tensor, lse_TH: Tensor, part_THK: Tensor, part_lse_TH: Tensor) -> None:
    """Merges one more part in place; o_THK and lse_TH are float32, or float64 for float64."""
    joined_TH = lse_TH.logaddexp(part_lse_TH)
    o_THK.mul_((lse_TH - joined_TH).exp_()[..., None])
    o_THK.addcmul_(part_THK.to(o_THK.dtype), (part_lse_TH - joined_TH).exp_()[..., None])
    lse_TH.copy_(joined_TH)
