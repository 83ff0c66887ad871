"""Initial weights, each drawn from a generator seeded by the parameter's NAME.

So a parameter starts with the same values whether it is built alone, in a pipeline stage, or in
the whole model, and however many parameters are built before it. Values are drawn on the CPU in
float32 and then cast and moved.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from model.config import ModelConfig

_INTO_RESIDUAL = ("o_proj.weight", "down_proj.weight")
_NORM = "norm.weight"


def initialize(module: nn.Module, config: ModelConfig, seed: int, prefix: str = "") -> None:
    """Fill every parameter of `module`, a Transformer or the part of one called `prefix`, in place.

    A module built on the meta device needs `to_empty` first; ValueError says so.
    """
    for name, parameter in module.named_parameters(prefix=prefix):
        initialize_parameter(name, parameter, config, seed)


@torch.no_grad()
def initialize_parameter(name: str, tensor: Tensor, config: ModelConfig, seed: int) -> None:
    """Fill the whole parameter called `name` (its full name in the Transformer) in place.

    Norms multiply by one, biases are zero; other weights, and sinks, are normal with deviation `init_std`,
    divided by sqrt(2 num_layers) where a projection writes into the residual stream, so that its variance
    does not grow with depth (GPT-2).
    """
    if tensor.is_meta:
        raise ValueError(f"{name}: is on the meta device and has no values; call to_empty first")
    if name.endswith(_NORM):
        tensor.fill_(0.0 if config.norm == "rmsnorm_plus_one" else 1.0)
        return
    if name.endswith(".bias"):
        tensor.zero_()
        return
    std = config.init_std
    if name.endswith(_INTO_RESIDUAL):
        std /= math.sqrt(2 * config.num_layers)
    values = torch.empty(tensor.shape, dtype=torch.float32)
    tensor.copy_(values.normal_(0.0, std, generator=_generator(name, config, seed)))


def _generator(name: str, config: ModelConfig, seed: int) -> torch.Generator:
    # A tied head that lives away from the embedding (another pipeline stage) starts as its equal.
    if config.tie_embeddings and name == "lm_head.weight":
        name = "embedding.weight"
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
