"""Rows and modules that several families share."""

from collections.abc import Mapping
from typing import Any

from model.huggingface.family import Row


def _own_width(config: Mapping[str, Any]) -> Any:
    return config["hidden_size"] // config["num_attention_heads"]


def sizes(
    *, tied: bool, head_dim: Any = _own_width, kv_heads: int = 0, activation: str = "hidden_act"
) -> list[Row]:
    """Rows of the sizes, whose keys are the same in every family.

    tied, head_dim: the family's defaults. kv_heads: its default of an absent num_key_value_heads; 0: as many as heads,
    which null is in every family. activation: the key of the gate, "" if the family's gate is not silu.
    """

    def num_kv_heads(config: Mapping[str, Any]) -> Any:
        absent = "num_key_value_heads" not in config
        return kv_heads if kv_heads and absent else config["num_attention_heads"]

    rows = [
        Row("vocab_size", None, ("vocab_size",)),
        Row("hidden_size", None, ("hidden_size",)),
        Row("intermediate_size", None, ("intermediate_size",)),
        Row("num_hidden_layers", None, ("num_layers",)),
        Row("num_attention_heads", None, ("num_heads",)),
        Row("num_key_value_heads", num_kv_heads, ("num_kv_heads",)),
        Row("head_dim", head_dim, ("head_dim",)),
        Row("tie_word_embeddings", tied, ("tie_embeddings",)),
    ]
    return [*rows, Row(activation, "silu", only=("silu",))] if activation else rows


def attention_bias(default: bool = False) -> Row:
    """The row of the key for the biases of all four projections."""
    return Row("attention_bias", default, ("qkv_bias", "output_bias"))


ATTENTION: Mapping[str, str] = {
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "attention.q_projection_norm": "self_attn.q_norm",
    "attention.k_projection_norm": "self_attn.k_norm",
}
FEED_FORWARD: Mapping[str, str] = {
    "feed_forward.gate_proj": "mlp.gate_proj",
    "feed_forward.up_proj": "mlp.up_proj",
    "feed_forward.down_proj": "mlp.down_proj",
}
PRE_NORMS: Mapping[str, str] = {
    "norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
}
