"""SwiGLU over tiles of tokens: the memory of intermediate tensors does not grow with the stream.

Gate, up and their product are each F / D times as large as the stream (3.5 in the 8B shape), and so are their
gradients: in a recomputed layer of a long stream they are most of the memory. The layer is token-wise, so the stream is
processed in tiles, forward and backward; the backward recomputes a tile's gate and up from its input:

    h = silu(g) * u        g = x gate^T    u = x up^T    y = h down^T
    dh = dy down           du = dh * silu(g)             dg = dh * u * silu'(g)
    dx = dg gate + du up   d_down += dy^T h    d_gate += dg^T x    d_up += du^T x

Gradients of weights are summed over tiles in float32 (float64 for float64). The backward needs whole weights, so this
does not work with ZeRO-3. The idea is tiled computation of arXiv 2506.13996.

Shape letters: T tokens, C tokens of one tile, D width, F feed-forward width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.logits import chunks_of
from model.loss import add_product
from model.norm import statistics_dtype

# Tokens of a tile: large products, and at width 14,336 a quarter of a gigabyte for each bfloat16 intermediate.
TILE_ROWS = 8_192


# Excluded from torch.compile: tracing would unroll the loop over tiles.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def tiled_swiglu(
    x_TD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, rows: int
) -> Tensor:
    """down(silu(gate(x)) * up(x)) of x_TD, (T, D) to (T, D), `rows` tokens at a time."""
    output_TD: Tensor = _Tiled.apply(x_TD, gate_FD, up_FD, down_DF, rows)  # type: ignore[no-untyped-call]
    return output_TD


class _Tiled(torch.autograd.Function):
    """Saves only its inputs for the backward."""

    @staticmethod
    def forward(
        ctx: Any, x_TD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, rows: int
    ) -> Tensor:
        ctx.save_for_backward(x_TD, gate_FD, up_FD, down_DF)
        ctx.rows = rows
        y_TD = x_TD.new_empty(len(x_TD), len(down_DF))
        for tile in chunks_of(len(x_TD), rows):
            x_CD = x_TD[tile]
            h_CF = F.silu(x_CD @ gate_FD.t()) * (x_CD @ up_FD.t())
            torch.mm(h_CF, down_DF.t(), out=y_TD[tile])
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_FD, up_FD, down_DF = ctx.saved_tensors
        wide = statistics_dtype(x_TD.dtype)
        wants_dx, *wants = ctx.needs_input_grad[:4]
        dx_TD = torch.empty_like(x_TD) if wants_dx else None
        d_gate_FD, d_up_FD, d_down_DF = (
            torch.zeros_like(weight, dtype=wide) if wanted else None
            for weight, wanted in zip((gate_FD, up_FD, down_DF), wants, strict=True)
        )
        for tile in chunks_of(len(x_TD), ctx.rows):
            x_CD, dy_CD = x_TD[tile], dy_TD[tile]
            g_CF, u_CF = x_CD @ gate_FD.t(), x_CD @ up_FD.t()
            s_CF = F.silu(g_CF)
            if d_down_DF is not None:
                add_product(d_down_DF, dy_CD.t(), s_CF * u_CF)
            dh_CF = dy_CD @ down_DF
            du_CF = dh_CF * s_CF
            dg_CF = torch.ops.aten.silu_backward(dh_CF.mul_(u_CF), g_CF)
            if d_gate_FD is not None:
                add_product(d_gate_FD, dg_CF.t(), x_CD)
            if d_up_FD is not None:
                add_product(d_up_FD, du_CF.t(), x_CD)
            if dx_TD is not None:
                torch.mm(dg_CF, gate_FD, out=dx_TD[tile])
                dx_TD[tile].addmm_(du_CF, up_FD)
        sums = (d_gate_FD, d_up_FD, d_down_DF)
        return dx_TD, *(None if d is None else d.to(x_TD.dtype) for d in sums), None
