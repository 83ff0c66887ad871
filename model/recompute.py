"""Activation recomputation: which tensors a layer keeps for its backward.

    everything     all intermediate tensors (no recomputation)
    attention      its input, and attention's output and log-sum-exp (`attention.kept`): attention is not recomputed
    input          its input
    input_on_cpu   its input, in CPU memory
    tiles          its input, in CPU memory; the feed-forward processes tiles of tokens (`feed_forward.tiled`)

The runners share one signature, so a layer's forward does not depend on the choice. Recomputation follows
arXiv 1604.06174.

Shape letters: T tokens, D width.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from model.attention.kept import keep_attention
from model.kind_at_step import KindAtStep
from model.packed_layout import PackedLayout

# Device and shape of a tensor, and its elements in order, in pieces.
HostCopy = tuple[torch.device, torch.Size, list[Tensor]]
LayerRunner = Callable[[nn.Module, Tensor, PackedLayout, KindAtStep], Tensor]


def keep_everything(layer: nn.Module, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
    """Run the layer; autograd keeps all intermediate tensors."""
    y_TD: Tensor = layer(x_TD, layout, at)
    return y_TD


def keep_input_and_attention(
    layer: nn.Module, x_TD: Tensor, layout: PackedLayout, at: KindAtStep
) -> Tensor:
    """Like `keep_input`, but keep attention's output too and do not run attention again."""
    y_TD: Tensor = checkpoint(
        layer,
        x_TD,
        layout,
        at,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=keep_attention,
    )
    return y_TD


def keep_input(layer: nn.Module, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
    """Run the layer, keep only `x_TD`, run it again in the backward."""
    # The model draws no random numbers, so there is no generator state to restore.
    y_TD: Tensor = checkpoint(
        layer, x_TD, layout, at, use_reentrant=False, preserve_rng_state=False
    )
    return y_TD


def keep_input_on_cpu(
    layer: nn.Module, x_TD: Tensor, layout: PackedLayout, at: KindAtStep
) -> Tensor:
    """Like `keep_input`, but store `x_TD` in CPU memory (pinned, when it comes from a GPU)."""
    with saved_tensors_hooks(to_host, from_host):
        return keep_input(layer, x_TD, layout, at)


# Below this number of elements, rounding up wastes little memory.
_SMALL = 1 << 18


def powers_of_two(count: int) -> list[int]:
    """`count` as a sum of powers of two, largest first; the last term is the remainder below `_SMALL`."""
    found = []
    while count >= _SMALL:
        found.append(1 << (count.bit_length() - 1))
        count -= found[-1]
    return [*found, count] if count else found


def to_host(tensor: Tensor) -> HostCopy:
    """Starts a copy to pinned memory and returns without waiting. A CPU tensor is returned as is.

    torch rounds every pinned buffer up to a power of two, which can double its size; the copy is therefore cut
    into powers of two.
    """
    if tensor.is_cpu or not tensor.numel():
        return tensor.device, tensor.shape, [tensor]
    return tensor.device, tensor.shape, cut(tensor)


def from_host(copy: HostCopy) -> Tensor:
    """Copies the tensor back to its device."""
    device, shape, pieces = copy
    return pieces[0] if pieces[0].device == device else joined(pieces, device).view(shape)


def cut(tensor: Tensor) -> list[Tensor]:
    """Copies the tensor's elements to CPU memory, in pieces."""
    flat = tensor.detach().reshape(-1)
    pieces = []
    for part in flat.split_with_sizes(powers_of_two(len(flat))):
        pieces.append(torch.empty(len(part), dtype=part.dtype, pin_memory=part.is_cuda))
        # The producer of the tensor, this copy and the copy back run in order on one CUDA stream.
        pieces[-1].copy_(part, non_blocking=True)
    return pieces


def joined(pieces: list[Tensor], device: torch.device) -> Tensor:
    """Joins the pieces of `cut` into one flat tensor on `device`."""
    lengths = [len(piece) for piece in pieces]
    flat = torch.empty(sum(lengths), dtype=pieces[0].dtype, device=device)
    for piece, part in zip(pieces, flat.split_with_sizes(lengths), strict=True):
        part.copy_(piece, non_blocking=True)
    return flat


RUNNERS: Mapping[str, LayerRunner] = MappingProxyType(
    {
        "everything": keep_everything,
        "attention": keep_input_and_attention,
        "input": keep_input,
        "input_on_cpu": keep_input_on_cpu,
        "tiles": keep_input_on_cpu,
    }
)
