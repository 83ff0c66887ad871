"""Initial weights, each drawn from a generator seeded by the parameter's NAME.

A parameter gets the same initial values whether it is built alone, in a pipeline stage, or in
the whole model, whatever parameters are built before it. Values are drawn on the CPU in
float32 and then cast and moved.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from model.parameters import numbers_of, role_of


def initialize(module: nn.Module, config: ModelConfig, seed: int, prefix: str = "") -> None:
    """Fill every parameter of `module`, a Transformer or the part of one called `prefix`, in place.

    Raises:
        ValueError: a parameter is on the meta device; call `to_empty` first.
        LookupError: the table of parameters has no row for a parameter.
    """
    for name, parameter in module.named_parameters(prefix=prefix):
        initialize_parameter(name, parameter, config, seed)


@torch.no_grad()
def initialize_parameter(name: str, tensor: Tensor, config: ModelConfig, seed: int) -> None:
    """Fill the whole parameter called `name` (its full name in the Transformer) in place, as its `Role` specifies.

    The deviation of a projection into the residual stream is `init_std` / sqrt(2 num_layers), so that the
    stream's variance does not grow with depth (GPT-2).
    """
    if tensor.is_meta:
        raise ValueError(f"{name}: is on the meta device and has no values; call to_empty first")
    initial = role_of(name).initial
    if initial == "norm":
        tensor.fill_(0.0 if config.norm == "rmsnorm_plus_one" else 1.0)
        return
    if initial == "zero":
        tensor.zero_()
        return
    if initial == "tenth":
        tensor.fill_(0.1)
        return
    if initial == "scale":
        scale = expand_pattern(config)[int(name.split(".")[1])].position_scale
        assert scale is not None
        tensor.fill_(scale.initial_weight)
        return
    std = config.init_std
    if initial == "into_residual":
        std /= math.sqrt(2 * config.num_layers)
    values = torch.empty(tensor.shape, dtype=torch.float32)
    values.normal_(0.0, std, generator=_generator(name, config, seed))
    tensor.copy_(values.abs_() if initial == "positive" else values)


def _generator(name: str, config: ModelConfig, seed: int) -> torch.Generator:
    # A tied head on another pipeline stage than the embedding gets the embedding's initial values.
    digest = hashlib.sha256(f"{seed}:{numbers_of(name, config)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
