"""Compilation of the regions between attention calls, by `torch.compile`.

Attention is a kernel of its own and communicates between ranks; the code around it is token-wise. These regions are
compiled whole: norm, rotation, SwiGLU and residual sums are fused into a few kernels beside the matrix products,
and results that are cheap to recompute are not kept for the backward.

    x -> [norm, q k v, rotation, ...] -> attention -> [o_proj, residual, ...] -> y     [ ]: one compiled region

Layers of a kind share the compiled code. A stream of a second length compiles once more, then for any length; layers
that are frozen and layers below all that trains have code of their own. The first step takes a few seconds for each
region.

Forwards without gradients run a copy of the region, so that the lengths of evaluations are counted apart: training at
one length keeps its code for that length, and no evaluation can displace it.
"""

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

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
    copies: dict[str, FunctionType] = {}
    for block in model.layers.values():
        if isinstance(block, Block):
            block.before = _compiled(block.before, copies)  # type: ignore[method-assign]
            block.after = _compiled(block.after, copies)  # type: ignore[method-assign]
    if isinstance(model.head_loss, ChunkedLoss):
        model.head_loss = ChunkedLoss(compiled=True)


def _compiled(method: Callable[..., Any], copies: dict[str, FunctionType]) -> Callable[..., Any]:
    """Returns a method, compiled apart with and without gradients. copies: of the functions so far, by qualified name.

    The compiler counts lengths and versions by code object.
    """
    assert isinstance(method, MethodType)
    function = method.__func__
    assert isinstance(function, FunctionType)
    copy = copies.setdefault(function.__qualname__, _copy(function))
    training, alone = torch.compile(method), torch.compile(MethodType(copy, method.__self__))

    def region(*given: Any, **named: Any) -> Any:
        return (training if torch.is_grad_enabled() else alone)(*given, **named)

    return region


def _copy(function: FunctionType) -> FunctionType:
    code = function.__code__.replace(co_name=f"{function.__name__}_without_gradients")
    return FunctionType(
        code,
        function.__globals__,
        code.co_name,
        function.__defaults__,
        function.__closure__,
    )
