"""The knobs of the model. Values are in `conf/model/*.yaml`; the defaults are the tiny preset."""

from dataclasses import dataclass, field
from difflib import get_close_matches

from model.layer_pattern import LAYER_KINDS
from model.position.config import RopeConfig

BLOCKS = ("parallel", "sequential")
NORMS = ("layernorm", "rmsnorm", "rmsnorm_plus_one")
NORM_PLACES = ("before", "after", "both")
QK_NORM_SPANS = ("head", "projection")
ACTIVATIONS = ("silu", "gelu_tanh", "clamped_silu")
ATTENTION_BACKENDS = (
    "auto", "dense", "banded", "varlen", "flash_attn", "flash_attn_3", "flash_attn_4"
)  # fmt: skip
# The least that has a meaning, and far beyond any model: a slip of the finger is not worked on for hours.
_SIZES = {
    "num_layers": (1, 10_000),
    "hidden_size": (1, 1_000_000),
    "intermediate_size": (1, 10_000_000),
    "num_heads": (1, 10_000),
    "num_kv_heads": (1, 10_000),
    "head_dim": (1, 10_000),
    "vocab_size": (2, 100_000_000),
    # Kernels count keys in 32 bits.
    "window": (1, 2**31 - 1),
}


def _default_pattern() -> list[str]:
    return ["window_rope", "window_rope", "window_rope", "full_nope"]


@dataclass
class ModelConfig:
    """Shape and recipe of one model. Mutable only because Hydra needs it; read-only by rule."""

    num_layers: int = 4
    # Width of the residual stream.
    hidden_size: int = 128
    # Width inside the gated feed-forward.
    intermediate_size: int = 352
    # Query heads, and the key/value heads they share (grouped-query attention).
    num_heads: int = 4
    num_kv_heads: int = 2
    # Width of one head; num_heads * head_dim need not equal hidden_size.
    head_dim: int = 32
    vocab_size: int = 4096
    # Keys seen by a token of a windowed layer, ITSELF INCLUDED.
    window: int = 128
    # Layer kinds, repeated over the layers: window_rope, window_nope, full_rope, full_nope.
    layer_pattern: list[str] = field(default_factory=_default_pattern)
    # parallel: attention and feed-forward side by side, one norm (Cohere).
    # sequential: one after the other, two norms (Llama).
    block: str = "parallel"
    # layernorm, rmsnorm, or rmsnorm_plus_one (Gemma: multiplies by 1 + weight); a learned weight and no bias.
    norm: str = "layernorm"
    norm_eps: float = 1e-5
    # Where a sequential block normalises: before attention and feed-forward, after them (OLMo 2), or both (Gemma).
    norm_at: str = "before"
    # Norm over queries and keys, before rotation: over each head's, or over all heads' together.
    qk_norm: bool = False
    qk_norm_over: str = "head"
    # Biases of the query, key and value projections; of attention's last product; of the feed-forward's three.
    qkv_bias: bool = False
    output_bias: bool = False
    feed_forward_bias: bool = False
    # The feed-forward's gate: silu, gelu_tanh (Gemma) or clamped_silu (gpt-oss).
    activation: str = "silu"
    # A learned logit for every head beside its scores, that takes attention and gives nothing (gpt-oss).
    sinks: bool = False
    # Scores s become c tanh(s / c); 0: they stay.
    attention_softcap: float = 0.0
    # The same for the output logits.
    logit_softcap: float = 0.0
    # Queries are multiplied by this, besides the scores' head_dim ** -0.5.
    query_scale: float = 1.0
    # Embeddings are multiplied by this as they enter the first layer.
    embedding_scale: float = 1.0
    # Rotation of the layers with and without a window: scaling, and a base of their own.
    rope_window: RopeConfig = field(default_factory=RopeConfig)
    rope_full: RopeConfig = field(default_factory=RopeConfig)
    # The output head reuses the embedding's weight.
    tie_embeddings: bool = True
    # Logits are multiplied by this.
    logit_scale: float = 1.0
    # Standard deviation of initial weights; projections into the residual stream get less.
    init_std: float = 0.02
    # auto, dense (the oracle), banded (CPU), varlen, flash_attn, flash_attn_3 or flash_attn_4 (GPU).
    attention_backend: str = "auto"

    def problems(self) -> list[str]:
        """Every rule this configuration breaks, one line each; empty when it is fine."""
        return (
            self._size_problems()
            + self._pattern_problems()
            + self._recipe_problems()
            + self._rope_problems()
        )

    def _size_problems(self) -> list[str]:
        found = [
            f"model.{name}={getattr(self, name)}: must be from {least} to {most}; give a number in between"
            for name, (least, most) in _SIZES.items()
            if not least <= getattr(self, name) <= most
        ]
        heads = min(self.num_heads, self.num_kv_heads)
        if (
            heads >= 1
            and self.num_heads <= _SIZES["num_heads"][1]
            and self.num_heads % self.num_kv_heads
        ):
            divisors = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            found.append(
                f"model.num_heads={self.num_heads}: must be divisible by "
                f"model.num_kv_heads={self.num_kv_heads}; use num_kv_heads in {divisors}"
            )
        return found

    def _pattern_problems(self) -> list[str]:
        if not self.layer_pattern:
            return [f"model.layer_pattern=[]: must name at least one of {', '.join(LAYER_KINDS)}"]
        unknown = sorted({name for name in self.layer_pattern if name not in LAYER_KINDS})
        if unknown:
            return [_unknown("layer_pattern", name, tuple(LAYER_KINDS)) for name in unknown]
        found = []
        unreached = sorted(set(self.layer_pattern) - set(self.layer_pattern[: self.num_layers]))
        if self.num_layers >= 1 and unreached:
            found.append(
                f"model.num_layers={self.num_layers}: too few to reach {', '.join(unreached)} in "
                f"model.layer_pattern (length {len(self.layer_pattern)}); use at least "
                f"{_layers_to_reach_all(self.layer_pattern)} layers or a shorter pattern"
            )
        if self.head_dim % 2 and any(LAYER_KINDS[name].rotary for name in self.layer_pattern):
            found.append(
                f"model.head_dim={self.head_dim}: must be even, rotary layers turn pairs; "
                f"use {self.head_dim + 1} or a pattern without rope"
            )
        return found

    def _recipe_problems(self) -> list[str]:
        found = [
            _unknown(name, getattr(self, name), known)
            for name, known in (
                ("block", BLOCKS),
                ("norm", NORMS),
                ("norm_at", NORM_PLACES),
                ("qk_norm_over", QK_NORM_SPANS),
                ("activation", ACTIVATIONS),
                ("attention_backend", ATTENTION_BACKENDS),
            )
            if getattr(self, name) not in known
        ]
        found += [
            f"model.{name}={getattr(self, name)}: must be a positive finite number"
            for name in ("norm_eps", "logit_scale", "init_std", "query_scale", "embedding_scale")
            if not 0.0 < getattr(self, name) < float("inf")
        ]
        found += [
            f"model.{name}={getattr(self, name)}: must be a finite number; 0 is off"
            for name in ("attention_softcap", "logit_softcap")
            if not 0.0 <= getattr(self, name) < float("inf")
        ]
        if self.block == "parallel" and self.norm_at != "before":
            found.append(
                f"model.norm_at={self.norm_at}: a parallel block has one norm, before; use block=sequential"
            )
        if self.qk_norm_over != "head" and not self.qk_norm:
            found.append(
                f"model.qk_norm_over={self.qk_norm_over}: has no effect without a norm; set model.qk_norm=true"
            )
        return found

    def rope_of(self, window: int | None) -> RopeConfig:
        """How rotary layers with this window (None: without one) rotate."""
        return self.rope_full if window is None else self.rope_window

    def _rope_problems(self) -> list[str]:
        if any(name not in LAYER_KINDS for name in self.layer_pattern):
            return []
        found = []
        kinds = [LAYER_KINDS[name] for name in self.layer_pattern]
        for name, windowed in (("rope_window", True), ("rope_full", False)):
            rope: RopeConfig = getattr(self, name)
            found += rope.problems(f"model.{name}", self.head_dim)
            used = any(kind.rotary and kind.windowed == windowed for kind in kinds)
            if rope != RopeConfig() and not used:
                found.append(
                    f"model.{name}: has no effect, model.layer_pattern has no such rotary layer; drop it"
                )
        return found


def _unknown(name: str, value: str, known: tuple[str, ...]) -> str:
    nearest = get_close_matches(value, known, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    return f"model.{name}={value}: must be one of {', '.join(known)}{hint}"


def _layers_to_reach_all(pattern: list[str]) -> int:
    return max(pattern.index(kind) for kind in set(pattern)) + 1
