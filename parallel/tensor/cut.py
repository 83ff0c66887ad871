"""How tensor parallelism cuts each parameter, by its row in the table of parameters. Pure integers.

    rows        embedding, lm_head (vocabulary); q_proj (heads); gate_proj, up_proj (feed-forward width)
    key_rows    k_proj, v_proj (key/value heads); with fewer heads than ranks, each head is held by several
                neighbouring ranks, the replicas
    columns     o_proj, down_proj: their outputs are summed over the ranks
    whole       norms of the residual stream: every rank holds the whole parameter

The logical parameter is the uncut one; initial weights, gradient norm and checkpoints use it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from model.layer_pattern import layer_kinds
from model.parameters import FIELDS, layer_names, parameter_names, role_of, shape_of

# Pieces of the residual stream that are sent one after the other: see parallel/tensor/residual.py.
PIECES = 4


@dataclass(frozen=True)
class Cut:
    """This rank's part of a parameter: part `index` of `parts` equal ones along `dim`.

    replicas: number of neighbouring tensor ranks that hold this same part. is_owner: whether this rank counts the
    part in sums over ranks (gradient norm, matrix optimizers); exactly one of the replicas does.
    """

    dim: int
    parts: int
    index: int
    replicas: int
    is_owner: bool

    def part(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """Returns the slices of this rank's part in a logical tensor: `full[cut.part(full.shape)]` is a view."""
        width = shape[self.dim] // self.parts
        part = slice(self.index * width, (self.index + 1) * width)
        return (*(slice(None) for _ in range(self.dim)), part)

    def full_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the logical shape of a parameter whose part has this shape."""
        whole = list(shape)
        whole[self.dim] *= self.parts
        return tuple(whole)


def cut_of(name: str, config: ModelConfig, rank: int, size: int) -> Cut:
    """Returns how the parameter called `name` (its full name in the Transformer) is cut for a tensor rank.

    Raises:
        LookupError: the table of parameters has no such row.
    """
    cut = role_of(name).cut
    if cut == "whole":
        return Cut(0, 1, 0, size, rank == 0)
    if cut == "key_rows":
        replicas = max(1, size // config.num_kv_heads)
        return Cut(0, size // replicas, rank // replicas, replicas, rank % replicas == 0)
    return Cut(1 if cut == "columns" else 0, size, rank, 1, True)


def key_heads(config: ModelConfig, rank: int, size: int) -> range:
    """Returns the key/value heads that a tensor rank holds, of all."""
    replicas = max(1, size // config.num_kv_heads)
    held = config.num_kv_heads * replicas // size
    return range(rank // replicas * held, (rank // replicas + 1) * held)


def part_elements(name: str, config: ModelConfig, size: int) -> int:
    """Returns the elements of the parameter called `name` on each of `size` tensor ranks."""
    return math.prod(shape_of(name, config)) // cut_of(name, config, 0, size).parts


def tensor_problems(config: ModelConfig, size: int) -> list[str]:
    """Returns why `config` cannot be cut for `size` tensor ranks, one line each."""
    found = [
        f"parallel.tensor={size}: model.{field}={value} must be divisible by it"
        for field, value in _divided(config).items()
        if value % size
    ]
    normed = any(spec.qk_norm for spec in layer_kinds(config).values())
    over_all = normed and config.qk_norm_over == "projection"
    if size > 1 and over_all and config.norm == "layernorm":
        found.append(
            f"parallel.tensor={size}: a layernorm over all heads cannot be cut; use model.norm=rmsnorm, or "
            "model.qk_norm_over=head"
        )
    heads = config.num_kv_heads
    if size % heads and heads % size:
        found.append(
            f"parallel.tensor={size}: model.num_kv_heads={heads} must divide it or be divisible by it"
        )
    return found


def _divided(config: ModelConfig) -> dict[str, int]:
    """Returns the model's fields, with values, that give the length of a cut dimension and must be divisible."""
    names = parameter_names(config, [])
    for spec in layer_kinds(config).values():
        names += layer_names(config, spec)
    roles = [role_of(name) for name in names]
    cut = [role.dims[role.cut == "columns"] for role in roles if role.cut in ("rows", "columns")]
    return {field: getattr(config, field) for field in (FIELDS[dim[0]] for dim in cut)}
