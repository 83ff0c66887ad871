"""Attention with one exchange of keys: all windowed layers, and full layers that receive few keys.

    forward     keys of other ranks  ======= in transfer =========>
                         local calls .............................  calls over received keys
    backward    calls over received keys   ==== their gradients in transfer =====>
                                         local calls ............................  added at the owner

The received keys are kept for the backward, which sends gradients only; a recomputation receives them again, even if
output and log-sum-exp were kept. Gradients are sent and summed by the owner in float32 (float64 for float64), in
order of rank: two runs are bit-identical.

Shape letters: T local tokens, R received rows, S rows of the assembled keys; 2 is key and value; H query
heads, G key/value heads, K head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.attention.kept import Attended, kept
from model.attention.kernels import choose_segment_kernel
from model.attention.segments import SegmentKernel
from model.attention.sinks import sinks_gradient, with_sinks
from parallel.sequence.local import (
    Gradients,
    Join,
    attend_calls,
    attend_calls_backward,
)
from parallel.sequence.merge import put_part
from parallel.sequence.route import Route, Rows
from parallel.sequence.wire import Wire, add_rows, gather_rows


def attend_exchanged(
    q_THK: Tensor,
    k_TGK: Tensor,
    v_TGK: Tensor,
    sinks_H: Tensor | None,
    *,
    plan: "Plan",
) -> Tensor:
    """Returns o_THK of the local queries, with sinks if given. Collective over the plan's axis."""
    run = ExchangedAttention.apply
    o_THK: Tensor = run(q_THK, k_TGK, v_TGK, sinks_H, plan)  # type: ignore[no-untyped-call]
    return o_THK


@dataclass(frozen=True, eq=False)
class Plan:
    """What one layer exchanges and computes.

    join: how outputs over received keys join the local ones: `put_part` where no query has both, otherwise
    `merge_part`. softcap: of scores; 0 for none.
    """

    route: Route
    wire: Wire
    join: Join
    softcap: float = 0.0


class ExchangedAttention(torch.autograd.Function):
    """Keeps queries, keys, values, output, log-sum-exp and the received keys and values."""

    @staticmethod
    def forward(
        ctx: Any,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        sinks_H: Tensor | None,
        plan: Plan,
    ) -> Tensor:
        route, wire, join = plan.route, plan.wire, plan.join
        kernel = choose_segment_kernel(
            q_THK.device.type, q_THK.dtype, q_THK.shape[-1], plan.softcap
        )
        exchange = route.exchange
        kv_T2GK = torch.stack((k_TGK, v_TGK), dim=1)
        pending = None
        if exchange:
            pending = wire.exchange(
                gather_rows(kv_T2GK, exchange.send), exchange.send_rows, exchange.receive_rows
            )
        came = cache(lambda: wire.receive(pending, "forward") if pending else kv_T2GK[:0])

        def attend() -> Attended:
            wide = torch.promote_types(q_THK.dtype, torch.float32)
            # If every query is in one call only, no float32 sum is needed.
            o = torch.empty_like(q_THK, dtype=q_THK.dtype if join is put_part else wide)
            lse_TH = q_THK.new_empty(q_THK.shape[:2], dtype=wide)
            attend_calls(kernel, route.local, q_THK, kv_T2GK, (o, lse_TH), put_part)
            if exchange:
                keys_S2GK = _assemble(exchange.assembly, came(), kv_T2GK)
                attend_calls(kernel, exchange.calls, q_THK, keys_S2GK, (o, lse_TH), join)
            o, lse_TH = with_sinks(o, lse_TH, sinks_H)
            return Attended(o.to(q_THK.dtype), lse_TH)

        o_THK, lse_TH = kept(attend)
        came_R2GK = came()
        ctx.plan, ctx.kernel = plan, kernel
        ctx.save_for_backward(q_THK, kv_T2GK, o_THK, lse_TH, came_R2GK, sinks_H)
        return o_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, kv_T2GK, o_THK, lse_TH, came_R2GK, sinks_H = ctx.saved_tensors
        route: Route = ctx.plan.route
        wire: Wire = ctx.plan.wire
        kernel: SegmentKernel = ctx.kernel
        attended = Attended(o_THK, lse_TH)
        do_THK = do_THK.contiguous()
        # Frozen sinks need none.
        wanted_H = sinks_H if ctx.needs_input_grad[3] else None
        d_sinks_H = sinks_gradient(do_THK, o_THK, lse_TH, wanted_H)
        sums = Gradients.zeros(q_THK, kv_T2GK)
        if route.exchange is None:
            attend_calls_backward(kernel, route.local, do_THK, q_THK, attended, kv_T2GK, sums)
            return (*sums.like(q_THK, kv_T2GK), d_sinks_H, None)
        exchange = route.exchange
        dcame_R2GK = _backward_of_what_came(
            kernel, route, do_THK, q_THK, attended, (came_R2GK, kv_T2GK), sums
        )
        pending = wire.exchange(dcame_R2GK, exchange.receive_rows, exchange.send_rows)
        attend_calls_backward(kernel, route.local, do_THK, q_THK, attended, kv_T2GK, sums)
        add_rows(sums.dkv_T2GK, exchange.send, wire.receive(pending, "backward"))
        return (*sums.like(q_THK, kv_T2GK), d_sinks_H, None)


def _backward_of_what_came(
    kernel: SegmentKernel,
    route: Route,
    do_THK: Tensor,
    q_THK: Tensor,
    attended: Attended,
    keys: tuple[Tensor, Tensor],
    sums: Gradients,
) -> Tensor:
    """Returns the gradients of the received rows; those of the rank's own tokens are added to `sums`."""
    assert route.exchange is not None
    came_R2GK, own_T2GK = keys
    assembly = route.exchange.assembly
    keys_S2GK = _assemble(assembly, came_R2GK, own_T2GK)
    dkeys_S2GK = torch.zeros_like(keys_S2GK, dtype=sums.dkv_T2GK.dtype)
    attend_calls_backward(
        kernel,
        route.exchange.calls,
        do_THK,
        q_THK,
        attended,
        keys_S2GK,
        Gradients(sums.dq_THK, dkeys_S2GK),
    )
    dcame_R2GK = torch.zeros_like(came_R2GK, dtype=dkeys_S2GK.dtype)
    done = 0
    for came, rows in assembly:
        target = dcame_R2GK if came else sums.dkv_T2GK
        target[rows.start : rows.stop].add_(dkeys_S2GK[done : done + len(rows)])
        done += len(rows)
    return dcame_R2GK


def _assemble(assembly: Sequence[Rows], came_R2GK: Tensor, own_T2GK: Tensor) -> Tensor:
    parts = [(came_R2GK if came else own_T2GK)[rows.start : rows.stop] for came, rows in assembly]
    if not parts:
        return own_T2GK[:0]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
