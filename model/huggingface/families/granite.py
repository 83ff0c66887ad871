"""Granite 3: Llama with factors of the embeddings, the scores, what is added to the residual stream and the logits.

Granite with windows (`granite_swa`): in addition a sink in every head, windows in some layers, and for every layer a
base of its own or no rotation. It can express RNoPE-SWA with sequential blocks and sinks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from model.config import ModelConfig
from model.huggingface.factors import above_zero, inverse_of
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_bases import kinds_of, listed_bases
from model.huggingface.layer_fields import (
    FULL,
    SLIDING,
    layer_types,
    pattern,
    windowed_pattern,
    written_types,
)
from model.huggingface.links import Link, same
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


_BASES = "layer_rope_theta"


def _read_layers(config: Mapping[str, Any]) -> Json:
    every_fourth = [SLIDING if layer % 4 else FULL for layer in range(config["num_hidden_layers"])]
    types = layer_types(config, every_fourth)
    alike = ["window_rope" if kind == SLIDING else "full_rope" for kind in types]
    # Without a list all layers have the same base, whichever it is.
    kinds = kinds_of(types, listed_bases(config, _BASES, base=math.inf))
    found = windowed_pattern(alike, config.get("sliding_window", 128))
    return found | {"layer_pattern": pattern(kinds)}


def _write_layers(model: ModelConfig) -> Json:
    return {"layer_types": written_types(model), "sliding_window": model.window}


def _sinks(_: ModelConfig, layer: int) -> Sequence[Link]:
    ours = f"layers.{layer}.attention.sinks.weight"
    return [same(f"model.layers.{layer}.self_attn.sinks", ours)]


GRANITE_SWA = Family(
    model_type="granite_swa",
    architecture="GraniteSWAForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm", "sinks": True},
    rows=[
        *sizes(tied=True, kv_heads=4),
        *BIASES,
        *FACTORS,
        Row("rms_norm_eps", 1e-5, ("norm_eps",)),
    ],
    kinds=frozenset({"full_rope", "full_nope", "window_rope", "window_nope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
    special=_sinks,
    layer_keys=("layer_types", "sliding_window", _BASES),
    bases=_BASES,
    new_in_5=True,
)
