"""Ring attention: full layers on a stream that is cut among ranks. Only the keys that are needed are sent.

In step s rank r receives from rank r - s the keys of documents that continue from there into its own chunks, and
sends to rank r + s the keys that it needs. The next message is in transfer while the last one is computed with:

    forward    keys 1  keys 2  keys 3                          =: transfers; below them, computation
               =======|=======|=======|
               local   part 1  part 2  part 3                  joined by log-sum-exp (merge.py)

    backward   keys 1  keys 2  keys 3
               =======|=======|=======|
               local   part 1  part 2  part 3
                              |=======|=======|=======|
                               grads 1 grads 2 grads 3         dK, dV to their owner; only the last is not overlapped

Two buffers for keys, one in use and one being filled, serve all layers. The backward receives the keys again
instead of keeping them, and needs three buffers for gradients (two being sent in turn, one being received).
Gradients are sent and summed by the owner in float32 (float64 for float64), in the order of steps: two runs are
bit-identical.

Where few keys are needed (`route.py`), one exchange takes the place of all steps; where none are needed there is no
communication.

Shape letters: T local tokens, R rows of a message; 2 is key and value; H query heads, G key/value heads,
K head dimension.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.attention.kept import Attended, kept
from model.attention.kernels import choose_segment_kernel
from model.attention.segments import SegmentKernel
from model.attention.sinks import sinks_gradient, with_sinks
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.mesh import AxisGroup
from parallel.sequence.exchanged import Plan, attend_exchanged
from parallel.sequence.layout import ShardedLayout
from parallel.sequence.local import Gradients, attend_calls, attend_calls_backward
from parallel.sequence.merge import merge_part, put_part
from parallel.sequence.route import Route, Step
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.wire import Buffers, Wire, add_rows, gather_rows
from parallel.transfer import Transfer


class RingCore:
    """The attention core of one kind of layer at a step without a window: of full layers, and of chunked ones.

    axis: `mesh.sequence`. buffers: for rows in transfer; the cores of all kinds may share them.
    """

    def __init__(
        self,
        kind: str,
        axis: AxisGroup,
        meter: TrafficMeter | None = None,
        softcap: float = 0.0,
        buffers: Buffers | None = None,
    ) -> None:
        self.kind = kind
        self.softcap = softcap
        self.wire = Wire(axis, kind, meter or TrafficMeter())
        self.buffers = buffers or Buffers()

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """See `AttentionCore`; queries, keys, values and output are of local tokens. Collective over the axis."""
        assert isinstance(layout, ShardedLayout), "a sequence rank needs its share of the stream"
        assert reach.window is None, "layers with a window have WindowCore"
        route = layout.route_of(self.kind, reach)
        if not route.steps:
            plan = Plan(route, self.wire, merge_part, self.softcap)
            return attend_exchanged(q_THK, k_TGK, v_TGK, sinks_H, plan=plan)
        run = _RingAttention.apply
        o_THK: Tensor = run(q_THK, k_TGK, v_TGK, sinks_H, route, self)  # type: ignore[no-untyped-call]
        return o_THK

    def start_keys(self, route: Route, index: int, kv_T2GK: Tensor) -> Transfer:
        """Starts the transfer of step number `index`, if there is one, into one of the two buffers."""
        if index == len(route.steps):
            return Transfer.nothing(kv_T2GK)
        step = route.steps[index]
        arriving = self.buffers.rows(f"keys {index % 2}", step.receive_rows, len(kv_T2GK), kv_T2GK)
        return self.wire.swap(gather_rows(kv_T2GK, step.send), step.distance, arriving)

    def start_gradients(self, step: Step, dkv_R2GK: Tensor, like_T2GK: Tensor) -> Transfer:
        """Starts the return of a step's key gradients: sends those of received keys, receives those of sent ones."""
        arriving = self.buffers.rows("gradients in", step.send_rows, len(like_T2GK), like_T2GK)
        return self.wire.swap(dkv_R2GK, -step.distance, arriving)


class _RingAttention(torch.autograd.Function):
    """Keeps queries, own keys and values, output and log-sum-exp; no received keys."""

    @staticmethod
    def forward(
        ctx: Any,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        sinks_H: Tensor | None,
        route: Route,
        core: RingCore,
    ) -> Tensor:
        kernel = choose_segment_kernel(
            q_THK.device.type, q_THK.dtype, q_THK.shape[-1], core.softcap
        )
        kv_T2GK = torch.stack((k_TGK, v_TGK), dim=1)

        def attend() -> Attended:
            pending = core.start_keys(route, 0, kv_T2GK)
            wide = torch.promote_types(q_THK.dtype, torch.float32)
            o = torch.empty_like(q_THK, dtype=wide)
            lse_TH = q_THK.new_empty(q_THK.shape[:2], dtype=wide)
            attend_calls(kernel, route.local, q_THK, kv_T2GK, (o, lse_TH), put_part)
            for index, step in enumerate(route.steps):
                came_R2GK = core.wire.receive(pending, "forward")
                pending = core.start_keys(route, index + 1, kv_T2GK)
                attend_calls(kernel, step.calls, q_THK, came_R2GK, (o, lse_TH), merge_part)
            o, lse_TH = with_sinks(o, lse_TH, sinks_H)
            return Attended(o.to(q_THK.dtype), lse_TH)

        o_THK, lse_TH = kept(attend)
        ctx.route, ctx.core, ctx.kernel = route, core, kernel
        ctx.save_for_backward(q_THK, kv_T2GK, o_THK, lse_TH, sinks_H)
        return o_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, kv_T2GK, o_THK, lse_TH, sinks_H = ctx.saved_tensors
        route: Route = ctx.route
        core: RingCore = ctx.core
        kernel: SegmentKernel = ctx.kernel
        attended = Attended(o_THK, lse_TH)
        do_THK = do_THK.contiguous()
        # Frozen sinks need none.
        wanted_H = sinks_H if ctx.needs_input_grad[3] else None
        d_sinks_H = sinks_gradient(do_THK, o_THK, lse_TH, wanted_H)
        pending = core.start_keys(route, 0, kv_T2GK)
        sums = Gradients.zeros(q_THK, kv_T2GK)
        attend_calls_backward(kernel, route.local, do_THK, q_THK, attended, kv_T2GK, sums)
        returning = Transfer.nothing(sums.dkv_T2GK)
        returned: tuple[range, ...] = ()
        for index, step in enumerate(route.steps):
            came_R2GK = core.wire.receive(pending, "backward")
            pending = core.start_keys(route, index + 1, kv_T2GK)
            dcame_R2GK = core.buffers.rows(
                f"gradients out {index % 2}", step.receive_rows, len(kv_T2GK), sums.dkv_T2GK
            ).zero_()
            parts = Gradients(sums.dq_THK, dcame_R2GK)
            attend_calls_backward(kernel, step.calls, do_THK, q_THK, attended, came_R2GK, parts)
            add_rows(sums.dkv_T2GK, returned, core.wire.receive(returning, "backward"))
            returning = core.start_gradients(step, dcame_R2GK, sums.dkv_T2GK)
            returned = step.send
        add_rows(sums.dkv_T2GK, returned, core.wire.receive(returning, "backward"))
        return (*sums.like(q_THK, kv_T2GK), d_sinks_H, None, None)
