"""The attention core of one device: a segment kernel run over a whole packed stream.

Every document is a segment whose queries and keys are the same rows. Queries, keys, values, output and one
number per token and head (the log-sum-exp) are kept for the backward; the probabilities are not.

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.attention.kept import Attended, kept
from model.attention.segments import SegmentKernel, Segments
from model.attention.sinks import sinks_gradient, with_sinks
from model.packed_layout import PackedLayout


class PackedCore:
    """See `AttentionCore`. Layers with the same window share the segments of a layout."""

    def __init__(self, kernel: SegmentKernel) -> None:
        self.backend = kernel.backend
        self.kernel = kernel
        self._segments: WeakKeyDictionary[PackedLayout, dict[int | None, Segments]]
        self._segments = WeakKeyDictionary()

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        window: int | None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """See `AttentionCore`."""
        # A window as long as the longest document masks nothing, and kernels are faster without one.
        reach = None if window is None or window >= layout.max_seqlen else window
        known = self._segments.setdefault(layout, {})
        if reach not in known:
            lengths, borders = layout.lengths, layout.cu_seqlens
            known[reach] = Segments(lengths, lengths, True, reach, borders, borders)
        run = _PackedAttention.apply
        o_THK: Tensor = run(q_THK, k_TGK, v_TGK, sinks_H, known[reach], self.kernel)  # type: ignore[no-untyped-call]
        return o_THK


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        sinks_H: Tensor | None,
        segments: Segments,
        kernel: SegmentKernel,
    ) -> Tensor:
        def attend() -> Attended:
            o, lse_TH = with_sinks(*kernel.forward(q_THK, k_TGK, v_TGK, segments), sinks_H)
            return Attended(o.to(q_THK.dtype), lse_TH)

        o_THK, lse_TH = kept(attend)
        ctx.segments, ctx.kernel = segments, kernel
        ctx.save_for_backward(q_THK, k_TGK, v_TGK, o_THK, lse_TH, sinks_H)
        return o_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, k_TGK, v_TGK, o_THK, lse_TH, sinks_H = ctx.saved_tensors
        dq, dk, dv = ctx.kernel.backward(
            do_THK.contiguous(), q_THK, k_TGK, v_TGK, o_THK, lse_TH, ctx.segments
        )
        d_sinks_H = sinks_gradient(do_THK, o_THK, lse_TH, sinks_H)
        return dq.to(q_THK.dtype), dk.to(k_TGK.dtype), dv.to(v_TGK.dtype), d_sinks_H, None, None
