"""The attention core of one device: a segment kernel run over a whole packed stream.

Every document, or every attention chunk of it, is a segment whose queries and keys are the same rows.
Queries, keys, values, output and one number per token and head (the log-sum-exp) are kept for the
backward; the probabilities are not.

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.attention.kept import Attended, kept
from model.attention.largest_product import largest_product
from model.attention.segments import SegmentKernel, Segments
from model.attention.sinks import sinks_gradient, with_sinks
from model.layer_sums import note_products
from model.packed_layout import PackedLayout, copy_to_device
from model.reach import Reach


class PackedCore:
    """See `AttentionCore`. Layers with the same reach share the segments of a layout."""

    def __init__(self, kernel: SegmentKernel) -> None:
        self.backend = kernel.backend
        self.kernel = kernel
        self._segments: WeakKeyDictionary[PackedLayout, dict[Reach, Segments]]
        self._segments = WeakKeyDictionary()

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """See `AttentionCore`."""
        # A window as long as the longest document masks nothing, and kernels are faster without one.
        reach = reach.within(layout.max_seqlen)
        known = self._segments.setdefault(layout, {})
        if reach not in known:
            known[reach] = _segments(layout, reach)
        run = _PackedAttention.apply
        o_THK: Tensor = run(q_THK, k_TGK, v_TGK, sinks_H, known[reach], self.kernel)  # type: ignore[no-untyped-call]
        return o_THK


def _segments(layout: PackedLayout, reach: Reach) -> Segments:
    """Returns a segment for every document, or for every attention chunk of it; the host does not wait."""
    if reach.chunk is None:
        lengths, borders = layout.lengths, layout.cu_seqlens
    else:
        lengths = tuple(reach.cut(layout.lengths))
        starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        borders = copy_to_device(starts, layout.cu_seqlens.device)
    return Segments(lengths, lengths, True, reach.window, borders, borders)


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
            note_products(lambda: largest_product(q_THK, k_TGK, segments.pieces))
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
        # Frozen sinks need none.
        wanted_H = sinks_H if ctx.needs_input_grad[3] else None
        d_sinks_H = sinks_gradient(do_THK, o_THK, lse_TH, wanted_H)
        return dq.to(q_THK.dtype), dk.to(k_TGK.dtype), dv.to(v_TGK.dtype), d_sinks_H, None, None
