"""Cohere2 (Command R7B, Command A): the parallel block, and RNoPE-SWA itself.

Heads are rotated in adjacent pairs, as ours. Only layers with a window rotate.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    SLIDING,
    every,
    layer_types,
    windowed_pattern,
    written_types,
)
from model.huggingface.rows import ATTENTION, FEED_FORWARD, attention_bias, sizes


def _read_layers(config: Mapping[str, Any]) -> Json:
    default = every(config.get("sliding_window_pattern") or 4, config["num_hidden_layers"])
    types = layer_types(config, default)
    kinds = ["window_rope" if kind == SLIDING else "full_nope" for kind in types]
    return windowed_pattern(kinds, config.get("sliding_window", 4096))


def _write_layers(model: ModelConfig) -> Json:
    # Even without windowed layers: transformers asks for a number.
    return {"layer_types": written_types(model), "sliding_window": model.window}


COHERE2 = Family(
    model_type="cohere2",
    architecture="Cohere2ForCausalLM",
    recipe={"block": "parallel", "norm": "layernorm"},
    rows=[
        *sizes(tied=True),
        attention_bias(),
        Row("layer_norm_eps", 1e-5, ("norm_eps",)),
        Row("logit_scale", 0.0625, ("logit_scale",)),
    ],
    kinds=frozenset({"window_rope", "full_nope"}),
    default_base=10_000.0,
    halves=False,
    modules={"norm": "input_layernorm", **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
    layer_keys=("layer_types", "sliding_window", "sliding_window_pattern"),
)
