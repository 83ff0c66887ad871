"""Mistral: Llama with the same window in every layer, or in none."""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import windowed_pattern
from model.huggingface.refusal import CannotExpress
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, sizes


def _read_layers(config: Mapping[str, Any]) -> Json:
    if config.get("layer_types") is not None:
        raise CannotExpress(
            ["config.json: layer_types: transformers does not read them in a mistral; use another model_type"]
        )  # fmt: skip
    window = config.get("sliding_window", 4096)
    return windowed_pattern(["full_rope" if window is None else "window_rope"], window)


def _write_layers(model: ModelConfig) -> Json:
    return {"sliding_window": model.window if model.layer_pattern[0] == "window_rope" else None}


MISTRAL = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[*sizes(tied=False), Row("rms_norm_eps", 1e-6, ("norm_eps",))],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
)
