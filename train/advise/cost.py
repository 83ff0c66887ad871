"""What a length costs: key/value cache, and floating point operations, by kind of layer. Counted, not measured.

    cache of a kind, bytes      layers * min(length, window or chunk) * 2 * num_kv_heads * head_dim * 2 (bfloat16)
    attention of a kind         layers * 4 * num_heads * head_dim * visible pairs          one forward over the sequence
    one token more, decoded     2 per weight + layers * 4 * num_heads * head_dim * keys in view

Weights and pairs are those of `model/flops.py`, whose conventions hold.
"""

from dataclasses import dataclass

from model.config import ModelConfig
from model.flops import matmul_parameters, score_pairs
from model.layer_pattern import LayerSpec
from model.reach import WHOLE_DOCUMENT
from train.advise.subject import Moment

# bfloat16
ELEMENT_BYTES = 2


@dataclass(frozen=True)
class KindCost:
    """Layers of one kind, all together. cache_bytes: of one sequence. grows_by: bytes of one token more.

    attention_flops: of one forward over the sequence. decode_flops: of attention for one token at the sequence's end.
    """

    kind: str
    layers: int
    cache_bytes: int
    grows_by: int
    attention_flops: int
    decode_flops: int


@dataclass(frozen=True)
class Cost:
    """One sequence of `length` tokens, one document.

    dense_flops: products with weights of one forward over the sequence. full_*: the same model if all its layers saw
    the whole document.
    """

    length: int
    kinds: tuple[KindCost, ...]
    dense_flops: int
    full_cache_bytes: int
    full_attention_flops: int

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values of all layers."""
        return sum(kind.cache_bytes for kind in self.kinds)

    @property
    def grows_by(self) -> int:
        """Bytes by which the cache grows with the next token."""
        return sum(kind.grows_by for kind in self.kinds)

    @property
    def attention_flops(self) -> int:
        """Operations of attention of one forward over the sequence."""
        return sum(kind.attention_flops for kind in self.kinds)

    @property
    def forward_flops(self) -> int:
        """Operations of one forward over the sequence."""
        return self.dense_flops + self.attention_flops

    @property
    def training_flops(self) -> int:
        """Operations of forward and backward over the sequence."""
        return 3 * self.forward_flops

    @property
    def full_forward_flops(self) -> int:
        """`forward_flops` if all layers saw the whole document."""
        return self.dense_flops + self.full_attention_flops

    @property
    def decode_flops(self) -> int:
        """Operations of one token at the sequence's end, with the cache."""
        return self.dense_flops // self.length + sum(kind.decode_flops for kind in self.kinds)


def cost_of(moment: Moment, length: int) -> Cost:
    """Returns the cost of a sequence of `length` tokens with the model of a stage."""
    model = moment.model
    pair = 4 * model.num_heads * model.head_dim
    return Cost(
        length,
        tuple(_kind_cost(model, kind.spec, kind.layers, length) for kind in moment.kinds),
        2 * matmul_parameters(model) * length,
        model.num_layers * length * token_bytes(model),
        model.num_layers * pair * score_pairs([length], WHOLE_DOCUMENT),
    )


def token_bytes(model: ModelConfig) -> int:
    """Returns the bytes of the key and the value of one token in one layer."""
    return 2 * model.num_kv_heads * model.head_dim * ELEMENT_BYTES


def _kind_cost(model: ModelConfig, spec: LayerSpec, layers: int, length: int) -> KindCost:
    most = spec.reach.limit
    keys = length if most is None else min(length, most)
    pair = layers * 4 * model.num_heads * model.head_dim
    return KindCost(
        spec.kind,
        layers,
        layers * keys * token_bytes(model),
        0 if most is not None and length >= most else layers * token_bytes(model),
        pair * score_pairs([length], spec.reach),
        pair * keys,
    )
