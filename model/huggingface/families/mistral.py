"""Mistral: Llama with the same window in every layer, or in none. Ministral: a window in some layers, by `layer_types`.

Ministral 8B was released as a Mistral with `layer_types`. transformers reads `layer_types` only for Ministral, so such
a model is exported as Ministral.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    FULL,
    SLIDING,
    layer_types,
    windowed_pattern,
    write_alike,
    written_types,
)
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, sizes


def _read_layers(config: Mapping[str, Any]) -> Json:
    window = config.get("sliding_window", 4096)
    alike = [FULL if window is None else SLIDING] * config["num_hidden_layers"]
    types = layer_types(config, alike)
    kinds = ["window_rope" if kind == SLIDING else "full_rope" for kind in types]
    return windowed_pattern(kinds, window)


def _write_types(model: ModelConfig) -> Json:
    types = written_types(model)
    return {"layer_types": types, "sliding_window": model.window if SLIDING in types else None}


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[*sizes(tied=False, kv_heads=8), Row("rms_norm_eps", 1e-6, ("norm_eps",))],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=write_alike,
    unread=("layer_types",),
)

MINISTRAL = dataclasses.replace(
    MISTRAL,
    model_type="ministral",
    architecture="MinistralForCausalLM",
    write_layers=_write_types,
    heir_of="mistral",
    unread=(),
)
