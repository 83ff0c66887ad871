"""Cohere (Command R, Command R+): the parallel block, LayerNorm, and RoPE in every layer.

Heads are rotated in adjacent pairs, as ours. Command R+ normalises queries and keys, each head with its own weights.

transformers 4 takes 10,000 and transformers 5 takes 500,000 for the base that a config.json does not give, so the
import refuses one without it.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row, no_layers
from model.huggingface.rope_fields import refuse_without_base
from model.huggingface.rows import ATTENTION, FEED_FORWARD, attention_bias, sizes


def _read_layers(config: Mapping[str, Any]) -> Json:
    refuse_without_base(config, before_5=10_000.0, now=500_000.0)
    return no_layers(config)


def _each_head(over: str, model: ModelConfig) -> bool:
    return model.qk_norm and over == "each_head"


COHERE = Family(
    model_type="cohere",
    architecture="CohereForCausalLM",
    recipe={"block": "parallel", "norm": "layernorm"},
    rows=[
        *sizes(tied=True),
        attention_bias(),
        Row("layer_norm_eps", 1e-5, ("norm_eps",)),
        Row("logit_scale", 0.0625, ("logit_scale",)),
        Row("use_qk_norm", False, ("qk_norm",)),
        Row(
            "use_qk_norm",
            False,
            ("qk_norm_over",),
            read=lambda normed, _: "each_head" if normed else "head",
            write=_each_head,
        ),
    ],
    kinds=frozenset({"full_rope"}),
    default_base=500_000.0,
    halves=False,
    modules={
        "norm": "input_layernorm",
        **ATTENTION,
        "attention.q_heads_norm": "self_attn.q_norm",
        "attention.k_heads_norm": "self_attn.k_norm",
        **FEED_FORWARD,
    },
    read_layers=_read_layers,
    layer_keys=(),
)
