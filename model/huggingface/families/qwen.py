"""Qwen2 (biases of queries, keys and values) and Qwen3 (a norm over each head's queries and keys).

The last layers may have a window: by default all from `max_window_layers` on.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    FULL,
    SLIDING,
    layer_types,
    windowed_pattern,
    written_types,
)
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, attention_bias, sizes


def _read_layers(config: Mapping[str, Any]) -> Json:
    window = config.get("sliding_window", 4096) if config.get("use_sliding_window") else None
    first = 28 if config.get("max_window_layers") is None else config["max_window_layers"]
    default = [
        SLIDING if window is not None and index >= first else FULL
        for index in range(config["num_hidden_layers"])
    ]
    types = layer_types(config, default)
    kinds = ["window_rope" if kind == SLIDING else "full_rope" for kind in types]
    return windowed_pattern(kinds, window)


def _write_layers(model: ModelConfig) -> Json:
    types = written_types(model)
    windowed = SLIDING in types
    return {
        "layer_types": types,
        "use_sliding_window": windowed,
        "sliding_window": model.window if windowed else None,
        "max_window_layers": types.index(SLIDING) if windowed else model.num_layers,
    }


_LAYER_KEYS = ("layer_types", "sliding_window", "use_sliding_window", "max_window_layers")

QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm", "qkv_bias": True},
    rows=[*sizes(tied=False, kv_heads=32), Row("rms_norm_eps", 1e-6, ("norm_eps",))],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
    layer_keys=_LAYER_KEYS,
)

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm", "qk_norm": True},
    rows=[
        *sizes(tied=False, head_dim=128, kv_heads=32),
        attention_bias(),
        Row("rms_norm_eps", 1e-6, ("norm_eps",)),
    ],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
    layer_keys=_LAYER_KEYS,
)
