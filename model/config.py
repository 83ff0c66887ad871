"""The settings of the model. Values are in `conf/model/*.yaml`; the defaults are the tiny preset."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge, Le

from model.layer_pattern import (
    Gate,
    GateOver,
    KindConfig,
    NormPlace,
    StaticGateOver,
    layer_kinds,
    pattern_problems,
)
from model.overrides import override_problems
from model.position.settings import NotNegative, Positive

# The upper limits are far beyond any model; they catch typing errors before hours of work.
Count = Annotated[int, Ge(1), Le(10_000)]
# Kernels count keys in 32 bits.
Keys = Annotated[int, Ge(1), Le(2**31 - 1)]


# How often each block reads the residual stream: once where attention and feed-forward read it in parallel, twice
# where the feed-forward reads it after attention. Costs and norms of a layer follow from this number.
HALVES: Mapping[str, int] = MappingProxyType({"parallel": 1, "sequential": 2})


def _default_pattern() -> list[str]:
    return ["window_rope", "window_rope", "window_rope", "full_nope"]


@dataclass
class ModelConfig:
    """Shape and recipe of one model. Mutable only because Hydra needs it; read-only by rule."""

    # Number of layers.
    num_layers: Count = 4
    # Width of the residual stream.
    hidden_size: Annotated[int, Ge(1), Le(1_000_000)] = 128
    # Width inside the gated feed-forward.
    intermediate_size: Annotated[int, Ge(1), Le(10_000_000)] = 352
    # Number of query heads.
    num_heads: Count = 4
    # Number of key/value heads that the query heads share (grouped-query attention).
    num_kv_heads: Count = 2
    # Width of one head; num_heads * head_dim need not equal hidden_size.
    head_dim: Count = 32
    # Number of token ids of the model: at least the tokenizer's.
    vocab_size: Annotated[int, Ge(2), Le(100_000_000)] = 4096
    # Keys seen by a token of a windowed layer, ITSELF INCLUDED, where its kind has no window of its own.
    window: Keys = 128
    # Tokens of an attention chunk of a chunked layer, where its kind has no chunk of its own. A token sees the tokens
    # of its chunk up to itself; chunks are counted from the document's first token.
    chunk: Keys = 256
    # Kinds of layers, repeated over the layers: window_rope, window_nope, full_rope, full_nope, chunk_rope,
    # chunk_nope, and those of model.kinds.
    layer_pattern: list[str] = field(default_factory=_default_pattern)
    # Settings of single kinds by name, and further kinds: near: {like: window_rope, window: 512}.
    kinds: dict[str, KindConfig] = field(default_factory=dict)
    # parallel: attention and feed-forward side by side, one norm (Cohere). sequential: one after the other, two norms
    # (Llama).
    block: Literal["parallel", "sequential"] = "parallel"
    # Kind of norm, with a learned weight and no bias; rmsnorm_plus_one multiplies by 1 + weight (Gemma).
    norm: Literal["layernorm", "rmsnorm", "rmsnorm_plus_one"] = "layernorm"
    # Added to the variance in every norm, so that nothing is divided by zero.
    norm_eps: Positive = 1e-5
    # Where a sequential block normalises: before attention and feed-forward, after them (OLMo 2), or both (Gemma).
    norm_at: Literal["before", "after", "both"] = "before"
    # Whether queries and keys are normalised.
    qk_norm: bool = False
    # What the norm of queries and keys runs over. head: each head, with one weight for all heads; each_head: each head,
    # with weights of its own (Command R+); projection: all heads together.
    qk_norm_over: Literal["head", "each_head", "projection"] = "head"
    # Whether queries and keys are normalised before the rotation or after it (Llama 4).
    qk_norm_at: NormPlace = "before"
    # Whether the norm of queries and keys has a learned weight (Llama 4 has none).
    qk_norm_weight: bool = True
    # Whether the query, key and value projections have biases.
    qkv_bias: bool = False
    # Whether the output projection of attention has a bias.
    output_bias: bool = False
    # Whether the three matrices of the feed-forward have biases.
    feed_forward_bias: bool = False
    # Gate of the feed-forward: silu, gelu_tanh (Gemma) or clamped_silu (gpt-oss).
    activation: Literal["silu", "gelu_tanh", "clamped_silu"] = "silu"
    # Whether every head has a learned logit in its softmax, without a value (attention sink, gpt-oss).
    sinks: bool = False
    # Output gate: attention's output is multiplied, before its projection, by this function of a product with the
    # layer's input; none: no gate.
    gate: Gate = "none"
    # What the gate has a number for: each head, or each channel of every head.
    gate_over: GateOver = "head"
    # Static gate (ASR): attention's output is multiplied, before its projection, by learned numbers that do not depend
    # on the input, one for each head or each channel of every head; an export folds them into the projection. none: no
    # such gate.
    static_gate: StaticGateOver = "none"
    # Factor of the values (MiMo: 0.707).
    value_scale: Positive = 1.0
    # Cap c of attention scores s, which become c tanh(s / c); 0: none.
    attention_softcap: NotNegative = 0.0
    # Cap c of the output logits s, which become c tanh(s / c); 0: none.
    logit_softcap: NotNegative = 0.0
    # Factor of the queries, in addition to the scores' head_dim ** -0.5.
    query_scale: Positive = 1.0
    # Factor of the embeddings before the first layer.
    embedding_scale: Positive = 1.0
    # Factor of what attention and feed-forward add to the residual stream (Granite: 0.22).
    residual_scale: Positive = 1.0
    # Whether the output head reuses the embedding's weight.
    tie_embeddings: bool = True
    # Factor of the output logits.
    logit_scale: Positive = 1.0
    # Standard deviation of initial weights; projections into the residual stream: init_std / sqrt(2 num_layers).
    init_std: Positive = 0.02
    # Attention kernel. auto: the fastest that supports the device. dense: the reference, with quadratic memory.
    # banded: for the CPU. The others need a GPU.
    attention_backend: Literal[
        "auto", "dense", "banded", "varlen", "flash_attn", "flash_attn_3", "flash_attn_4"
    ] = "auto"  # fmt: skip

    @property
    def halves(self) -> int:
        """How often a block reads the residual stream; see `HALVES`."""
        return HALVES[self.block]

    def without_static_gates(self) -> "ModelConfig":
        """Returns the same model without static gates: what an export writes, with the gates folded into `o_proj`."""
        kinds = {name: replace(kind, static_gate=None) for name, kind in self.kinds.items()}
        return replace(self, static_gate="none", kinds=kinds)

    def problems(self) -> list[str]:
        """Returns every broken rule between fields, one line each; annotations limit the single fields."""
        return self._head_problems() + self._pattern_problems() + self._recipe_problems()

    def _head_problems(self) -> list[str]:
        if self.num_heads % self.num_kv_heads == 0:
            return []
        divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
        return [
            f"model.num_heads={self.num_heads}: must be divisible by "
            f"model.num_kv_heads={self.num_kv_heads}; use num_kv_heads in {divisors}"
        ]

    def _pattern_problems(self) -> list[str]:
        found = pattern_problems(self, self.head_dim) or override_problems(self)
        if not found and self.head_dim % 2:
            specs = layer_kinds(self).values()
            rotary = sorted(spec.kind for spec in specs if spec.rope)
            if rotary:
                found.append(
                    f"model.head_dim={self.head_dim}: must be even, rotary layers turn pairs; "
                    f"use {self.head_dim + 1} or a pattern without {', '.join(rotary)}"
                )
        return found

    def _recipe_problems(self) -> list[str]:
        found = []
        if self.halves == 1 and self.norm_at != "before":
            found.append(
                f"model.norm_at={self.norm_at}: a {self.block} block has one norm, before; use block=sequential"
            )
        return found
