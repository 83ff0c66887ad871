"""Granite 3: Llama with factors of the embeddings, the scores, what is added to the residual stream and the logits."""

import math
from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.factors import above_zero, inverse_of
from model.huggingface.family import Family, Row
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, attention_bias, sizes


def _read_query_scale(value: Any, config: Mapping[str, Any]) -> float:
    """`attention_multiplier` stands in place of head_dim ** -0.5; our factor comes in addition to it."""
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return above_zero("attention_multiplier")(value, config) * math.sqrt(width)


def _write_query_scale(scale: float, model: ModelConfig) -> float:
    root = math.sqrt(model.head_dim)
    return inverse_of(lambda multiplier: multiplier * root, scale, scale / root)


def _read_logit_scale(value: Any, config: Mapping[str, Any]) -> float:
    return 1.0 / above_zero("logits_scaling")(value, config)


def _write_logit_scale(scale: float, _: ModelConfig) -> float:
    return inverse_of(lambda divisor: 1.0 / divisor, scale, 1.0 / scale)


FACTORS = (
    Row("embedding_multiplier", 1.0, ("embedding_scale",), read=above_zero("embedding_multiplier")),
    Row("residual_multiplier", 1.0, ("residual_scale",), read=above_zero("residual_multiplier")),
    Row(
        "attention_multiplier",
        1.0,
        ("query_scale",),
        read=_read_query_scale,
        write=_write_query_scale,
    ),
    Row("logits_scaling", 1.0, ("logit_scale",), read=_read_logit_scale, write=_write_logit_scale),
)
BIASES = (attention_bias(), Row("mlp_bias", False, ("feed_forward_bias",)))

GRANITE = Family(
    model_type="granite",
    architecture="GraniteForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[*sizes(tied=False), *BIASES, *FACTORS, Row("rms_norm_eps", 1e-6, ("norm_eps",))],
    kinds=frozenset({"full_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    layer_keys=(),
)
