"""Compilation of the regions between attention calls, by `torch.compile`.

Attention is a kernel of its own and communicates between ranks; the code around it is token-wise. These regions are
compiled whole: norm, rotation, SwiGLU and residual sums are fused into a few kernels beside the matrix products,
and results that are cheap to recompute are not kept for the backward.

    x -> [norm, q k v, rotation, ...] -> attention -> [o_proj, residual, ...] -> y     [ ]: one compiled region

Layers of a kind share the compiled code. A stream of a second length compiles once more, then for any length; an
evaluation, layers that are frozen and layers below all that trains have code of their own. The first step takes a few
seconds for each region.
"""

import torch

from model.block import Block
from model.loss import ChunkedLoss
from model.transformer import Transformer

# Versions of one region that a run may compile; torch leaves what is beyond its own limit, 8, without compilation.
_VERSIONS = 64


def compile_regions(model: Transformer) -> None:
    """Compile the regions of `model`, or of a pipeline stage, in place. Parameters keep their names.

    Blocks and losses that tensor parallelism replaced are not compiled.
    """
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _VERSIONS)
    for block in model.layers.values():
        if isinstance(block, Block):
            block.before = torch.compile(block.before)  # type: ignore[method-assign]
            block.after = torch.compile(block.after)  # type: ignore[method-assign]
    if isinstance(model.head_loss, ChunkedLoss):
        model.head_loss = ChunkedLoss(compiled=True)
