"""Cuts a Transformer, or a pipeline stage of one, for the tensor axis.

    build on the meta device -> cut_model -> materialise with initialise_cut -> sum_replicated_gradients, mark_owners

Parameters stay plain tensors under the same names, so ZeRO can flatten them and checkpoints find them.
"""

import torch
from torch import Tensor, nn

from model.attention.static_gate import StaticGate
from model.config import ModelConfig
from model.initialization import initialize_parameter
from model.norm import NORMS
from model.parameters import role_of
from model.transformer import Transformer
from parallel.mesh import AxisGroup
from parallel.tensor.block import cut_block
from parallel.tensor.cut import cut_of, key_heads
from parallel.tensor.modules import AllHeadsNorm, SummandLinear
from parallel.tensor.vocabulary import VocabularyParallelEmbedding, VocabularyParallelLoss


def cut_model(model: Transformer, group: AxisGroup) -> None:
    """Keeps this rank's part of every parameter, and replaces modules by their parallel versions. In place.

    On one rank nothing changes. Works on meta and on real parameters, and on a pipeline stage without
    embedding or head. A cut model takes all tokens and returns the cut residual stream (T / n, D); `loss` and
    `token_losses` take that and the targets of all tokens; do not call `logits` of a cut model.

    Raises:
        LookupError: a parameter has no row in the table of parameters.
    """
    if group.size == 1:
        return
    for prefix, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            cut = cut_of(_full_name(prefix, name), model.config, group.rank, group.size)
            if cut.parts > 1:
                part = parameter.detach()[cut.part(parameter.shape)]
                part = part.clone(memory_format=torch.contiguous_format)
                setattr(module, name, nn.Parameter(part))
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        if isinstance(module, StaticGate):
            module.index, module.parts = group.rank, group.size
    _replace_modules(model, group)
    for index, block in model.layers.items():
        model.layers[index] = cut_block(block, group)
    if isinstance(model.embedding, nn.Embedding):
        weight_VD = nn.Parameter(model.embedding.weight.detach())
        model.embedding = VocabularyParallelEmbedding(weight_VD, group)
    model.head_loss = VocabularyParallelLoss(group)
    model.key_heads = key_heads(model.config, group.rank, group.size)


def _replace_modules(model: Transformer, group: AxisGroup) -> None:
    """Replaces modules that compute differently when cut: products with a summed bias, and norms over cut heads."""
    norms = tuple(NORMS.values())
    for prefix, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            weight = f"{_full_name(prefix, name)}.weight"
            if isinstance(child, nn.Linear):
                if role_of(weight).cut == "columns" and child.bias is not None:
                    setattr(module, name, SummandLinear(child, group.size))
            elif isinstance(child, norms) and role_of(weight).cut != "whole":
                replicas = cut_of(weight, model.config, group.rank, group.size).replicas
                setattr(module, name, AllHeadsNorm(child, group, replicas))


def _full_name(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def initialise_cut(
    name: str, tensor: Tensor, config: ModelConfig, seed: int, group: AxisGroup
) -> None:
    """Fills this rank's part of the parameter called `name` with its slice of the logical initial values."""
    cut = cut_of(name, config, group.rank, group.size)
    full = torch.empty(cut.full_shape(tuple(tensor.shape)), dtype=tensor.dtype)
    initialize_parameter(name, full, config, seed)
    with torch.no_grad():
        tensor.copy_(full[cut.part(full.shape)])
