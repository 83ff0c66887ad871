"""What a layer keeps for its backward: everything, or little, with the rest computed again.

    everything     what autograd likes
    attention      its input, and what attention computed (`kept_attention`): products are repeated, attention is not
    input          its input
    input_on_cpu   its input, in CPU memory

The runners have one signature, so a layer's forward does not know which one runs it. Recomputation follows
arXiv 1604.06174.

Shape letters: T tokens, D width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from model.kept_attention import keep_attention
from model.packed_layout import PackedLayout
from model.rope import Rotation

LayerRunner = Callable[[nn.Module, Tensor, PackedLayout, Rotation], Tensor]


def evenly(count: int, num_layers: int) -> frozenset[int]:
    """`count` of the layers 0 to num_layers - 1, evenly spread."""
    return frozenset(
        index
        for index in range(num_layers)
        if (index + 1) * count // num_layers > index * count // num_layers
    )


def keep_everything(
    layer: nn.Module, x_TD: Tensor, layout: PackedLayout, rotation: Rotation
) -> Tensor:
    """Run the layer; autograd keeps what it likes."""
    y_TD: Tensor = layer(x_TD, layout, rotation)
    return y_TD


def keep_input_and_attention(
    layer: nn.Module, x_TD: Tensor, layout: PackedLayout, rotation: Rotation
) -> Tensor:
    """Like `keep_input`, but the attention is not run again."""
    y_TD: Tensor = checkpoint(
        layer,
        x_TD,
        layout,
        rotation,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=keep_attention,
    )
    return y_TD


def keep_input(layer: nn.Module, x_TD: Tensor, layout: PackedLayout, rotation: Rotation) -> Tensor:
    """Run the layer, keep only `x_TD`, run it again in the backward."""
    # The model draws no random numbers, so there is no generator state to restore.
    y_TD: Tensor = checkpoint(
        layer, x_TD, layout, rotation, use_reentrant=False, preserve_rng_state=False
    )
    return y_TD


def keep_input_on_cpu(
    layer: nn.Module, x_TD: Tensor, layout: PackedLayout, rotation: Rotation
) -> Tensor:
    """Like `keep_input`, but `x_TD` waits in CPU memory (pinned, when it comes from a GPU)."""
    with save_on_cpu(pin_memory=x_TD.is_cuda):
        return keep_input(layer, x_TD, layout, rotation)


RUNNERS: Mapping[str, LayerRunner] = MappingProxyType(
    {
        "everything": keep_everything,
        "attention": keep_input_and_attention,
        "input": keep_input,
        "input_on_cpu": keep_input_on_cpu,
    }
)
