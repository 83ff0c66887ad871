"""EXAONE 4: norms after attention and feed-forward, a norm over each head's queries and keys, full layers without RoPE.

A model with windows rotates its windowed layers only (32B); one without windows rotates all its layers (1.2B). The key
that tells them apart is `sliding_window`: null means that full layers rotate. `sliding_window_pattern` is read only
without `layer_types`, and the released files have a text there ("LLLG"), which transformers cannot read by itself; so
export always writes `layer_types`.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    FULL,
    SLIDING,
    every,
    expanded,
    layer_types,
    windowed_pattern,
    written_types,
)
from model.huggingface.refusal import CannotExpress
from model.huggingface.rows import ATTENTION, FEED_FORWARD, sizes

_PATTERN = "sliding_window_pattern"


def _default_types(config: Mapping[str, Any], window: int | None) -> list[str]:
    """The layers of a config.json without `layer_types`."""
    layers = config["num_hidden_layers"]
    if config.get("layer_types") is not None:
        return [FULL] * layers
    period = config.get(_PATTERN, 4)
    if window is None or type(period) is not int or period < 1:
        raise CannotExpress(
            [
                f"config.json: {_PATTERN}={period!r} with sliding_window={window}: transformers cannot read it without "
                "layer_types; write layer_types"
            ]
        )
    return every(period, layers)


def _read_layers(config: Mapping[str, Any]) -> Json:
    window = config.get("sliding_window", 4096)
    types = layer_types(config, _default_types(config, window))
    full = "full_rope" if window is None else "full_nope"
    return windowed_pattern(["window_rope" if kind == SLIDING else full for kind in types], window)


def _write_layers(model: ModelConfig) -> Json:
    kinds = set(expanded(model))
    if "full_rope" in kinds and len(kinds) > 1:
        raise CannotExpress(
            [
                f"model.layer_pattern={model.layer_pattern}: exaone4 rotates full layers only where every layer is "
                "full and rotates"
            ]
        )
    types = written_types(model)
    written: Json = {
        "layer_types": types,
        "sliding_window": None if "full_rope" in kinds else model.window,
    }
    period = types.index(FULL) + 1 if FULL in types else 0
    # For programs that read it instead of `layer_types`.
    regular = period > 1 and types == every(period, len(types))
    return written | {_PATTERN: "L" * (period - 1) + "G" if regular else None}


EXAONE4 = Family(
    model_type="exaone4",
    architecture="Exaone4ForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm", "norm_at": "after", "qk_norm": True},
    rows=[*sizes(tied=False, kv_heads=32), Row("rms_norm_eps", 1e-5, ("norm_eps",))],
    kinds=frozenset({"full_rope", "full_nope", "window_rope"}),
    default_base=10_000.0,
    modules={
        "post_norm": "post_attention_layernorm",
        "feed_forward_post_norm": "post_feedforward_layernorm",
        **ATTENTION,
        **FEED_FORWARD,
    },
    read_layers=_read_layers,
    write_layers=_write_layers,
    layer_keys=("layer_types", "sliding_window", _PATTERN),
    texts=(_PATTERN,),
)
