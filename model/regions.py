"""Compilation of what lies between attention calls, by `torch.compile`.

Attention is a kernel of its own and where ranks talk; around it each token is treated by itself. Those regions
are compiled whole: norm, rotation, SwiGLU and residual sums melt into a few kernels beside the matrix products,
and what is cheap to repeat is not kept for the backward.

    x -> [norm, q k v, rotation, ...] -> attention -> [o_proj, residual, ...] -> y     [ ]: one compiled region

Layers of a kind share what was compiled. A stream of another length compiles once more, for any length then.
The first step takes a few seconds for each region.
"""

import torch

from model.block import Block
from model.loss import ChunkedLoss
from model.transformer import Transformer


def compile_regions(model: Transformer) -> None:
    """Compile the regions of `model`, or of a pipeline stage, in place. Parameters keep their names.

    Blocks and losses that were replaced for tensor parallelism are left as they are.
    """
    for block in model.layers.values():
        if isinstance(block, Block):
            block.before = torch.compile(block.before)  # type: ignore[method-assign]
            block.after = torch.compile(block.after)  # type: ignore[method-assign]
    if isinstance(model.head_loss, ChunkedLoss):
        model.head_loss = ChunkedLoss(compiled=True)
