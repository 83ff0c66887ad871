"""How tensor parallelism cuts every parameter, by its name. Pure integers.

    embedding, lm_head                  rows (vocabulary)
    q_proj, gate_proj, up_proj          rows (heads, feed-forward width)
    k_proj, v_proj                      rows (key/value heads); with fewer heads than ranks, each head is
                                        held by several neighbouring ranks, the replicas
    o_proj, down_proj                   columns; their biases are not cut
    sinks                               one of each head
    every norm                          not cut: each rank holds it whole; but a norm over all heads' queries or
                                        keys is cut like what it normalises

Biases of cut rows are cut with them.

A parameter's logical form is the whole one; initial weights, gradient norm and checkpoints speak of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.config import ModelConfig

_ROWS = ("embedding", "lm_head", "q_proj", "q_projection_norm", "sinks", "gate_proj", "up_proj")
_KEY_ROWS = ("k_proj", "k_projection_norm", "v_proj")
# Cut by columns: their outputs are added up over the ranks.
SUMMANDS = ("o_proj", "down_proj")
OVER_ALL_HEADS = ("q_projection_norm", "k_projection_norm")


@dataclass(frozen=True)
class Cut:
    """This rank's part of a parameter: part `index` of `parts` equal ones along `dim`.

    replicas: neighbouring tensor ranks that hold this same part. is_owner: whether this rank counts it
    (in the gradient norm) and writes it (in checkpoints): exactly one replica does.
    """

    dim: int
    parts: int
    index: int
    replicas: int
    is_owner: bool

    def part(self, shape: Sequence[int]) -> tuple[slice, ...]:
        """Where this rank's part lies in the logical tensor of this shape: `full[cut.part(full.shape)]` is a view."""
        width = shape[self.dim] // self.parts
        part = slice(self.index * width, (self.index + 1) * width)
        return (*(slice(None) for _ in range(self.dim)), part)

    def full_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Logical shape of a parameter whose part has this shape."""
        whole = list(shape)
        whole[self.dim] *= self.parts
        return tuple(whole)


def cut_of(name: str, config: ModelConfig, rank: int, size: int) -> Cut:
    """How the parameter called `name` (its full name in the Transformer) is cut for a tensor rank."""
    layer, kind = name.split(".")[-2:]
    if layer in SUMMANDS and kind != "bias":
        return Cut(1, size, rank, 1, True)
    if layer in _ROWS:
        return Cut(0, size, rank, 1, True)
    if layer in _KEY_ROWS:
        replicas = max(1, size // config.num_kv_heads)
        return Cut(0, size // replicas, rank // replicas, replicas, rank % replicas == 0)
    return Cut(0, 1, 0, size, rank == 0)


def tensor_problems(config: ModelConfig, size: int) -> list[str]:
    """Why `config` cannot be cut for `size` tensor ranks, one line each."""
    found = [
        f"parallel.tensor={size}: model.{field}={value} must be divisible by it"
        for field, value in (
            ("num_heads", config.num_heads),
            ("intermediate_size", config.intermediate_size),
            ("vocab_size", config.vocab_size),
        )
        if value % size
    ]
    if size > 1 and config.qk_norm_over == "projection" and config.norm == "layernorm":
        found.append(
            f"parallel.tensor={size}: a layernorm over all heads is not cut; use model.norm=rmsnorm, or "
            "model.qk_norm_over=head"
        )
    heads = config.num_kv_heads
    if size % heads and heads % size:
        found.append(
            f"parallel.tensor={size}: model.num_kv_heads={heads} must divide it or be divisible by it"
        )
    return found
