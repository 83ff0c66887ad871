"""Runs a rank's kernel calls, forward and backward, on the rows of their `Call`s.

Shape letters: T local tokens, S rows of the given keys; 2 is key and value; H query heads, G key/value
heads, K head dimension.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model.attention.kept import Attended
from model.attention.largest_product import largest_product
from model.attention.segments import SegmentKernel
from model.layer_sums import note_products
from model.norm import statistics_dtype
from parallel.sequence.route import Call

# Writes or adds a part of the output: `put_part` or `merge_part`.
Join = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class Gradients(NamedTuple):
    """Sums of gradients in float32, or float64 for float64."""

    dq_THK: Tensor
    dkv_T2GK: Tensor

    @classmethod
    def zeros(cls, q_THK: Tensor, kv_T2GK: Tensor) -> "Gradients":
        """Returns zeros for these queries, keys and values."""
        return cls(
            *(torch.zeros_like(x, dtype=statistics_dtype(x.dtype)) for x in (q_THK, kv_T2GK))
        )

    def like(self, q_THK: Tensor, kv_T2GK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of queries, keys and values in the dtypes of `q_THK` and `kv_T2GK`."""
        dk_TGK, dv_TGK = self.dkv_T2GK.to(kv_T2GK.dtype).unbind(1)
        return self.dq_THK.to(q_THK.dtype), dk_TGK, dv_TGK


def attend_calls(
    kernel: SegmentKernel,
    calls: Sequence[Call],
    q_THK: Tensor,
    kv_S2GK: Tensor,
    into: tuple[Tensor, Tensor],
    join: Join,
) -> None:
    """Runs the calls and joins their results into `into`: output and log-sum-exp of all local queries."""
    o_THK, lse_TH = into
    for call in calls:
        rows = slice(call.queries.start, call.queries.stop)
        k_SGK, v_SGK = kv_S2GK[call.keys.start : call.keys.stop].unbind(1)
        note_products(partial(largest_product, q_THK[rows], k_SGK, call.segments.pieces))
        part_THK, part_lse_TH = kernel.forward(q_THK[rows], k_SGK, v_SGK, call.segments)
        join(o_THK[rows], lse_TH[rows], part_THK, part_lse_TH)


def attend_calls_backward(
    kernel: SegmentKernel,
    calls: Sequence[Call],
    do_THK: Tensor,
    q_THK: Tensor,
    attended: Attended,
    kv_S2GK: Tensor,
    into: Gradients,
) -> None:
    """Adds the calls' shares of the gradients to `into`, whose keys have the rows of `kv_S2GK`."""
    for call in calls:
        rows = slice(call.queries.start, call.queries.stop)
        keys = slice(call.keys.start, call.keys.stop)
        k_SGK, v_SGK = kv_S2GK[keys].unbind(1)
        dq_THK, dk_SGK, dv_SGK = kernel.backward(
            do_THK[rows],
            q_THK[rows],
            k_SGK,
            v_SGK,
            attended.o_THK[rows],
            attended.lse_TH[rows],
            call.segments,
        )
        into.dq_THK[rows].add_(dq_THK)
        into.dkv_T2GK[keys, 0].add_(dk_SGK)
        into.dkv_T2GK[keys, 1].add_(dv_SGK)
