"""Gemma 2 and Gemma 3 (text): norms before and after with 1 + weight, gelu, capped logits, windowed and full layers.

Gemma 2 caps attention scores too, and rotates all layers alike. Gemma 3 normalises queries and keys, and has separate
RoPE bases for windowed and full layers.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
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
from model.huggingface.refusal import CannotExpress
from model.huggingface.rows import ATTENTION, FEED_FORWARD, attention_bias, sizes


def _read_layers(config: Mapping[str, Any], *, period: int) -> Json:
    types = layer_types(config, every(period, config["num_hidden_layers"]))
    kinds = ["window_rope" if kind == SLIDING else "full_rope" for kind in types]
    return windowed_pattern(kinds, config.get("sliding_window", 4096))


def _read_layers_of_3(config: Mapping[str, Any]) -> Json:
    return _read_layers(config, period=config.get("sliding_window_pattern") or 6)


def _write_layers(model: ModelConfig) -> Json:
    return {"layer_types": written_types(model), "sliding_window": model.window}


def _read_scale(scalar: Any, config: Mapping[str, Any]) -> float:
    if isinstance(scalar, bool) or not isinstance(scalar, int | float) or not scalar > 0:
        raise CannotExpress([f"config.json: query_pre_attn_scalar={scalar!r}: must be above 0"])
    return math.sqrt((config.get("head_dim") or 256) / scalar)


def _write_scale(scale: float, model: ModelConfig) -> int:
    return round(model.head_dim / scale**2)


def _cap(key: str, default: float) -> Callable[[Mapping[str, Any]], float]:
    """The default of a cap: of an absent key the family's, of null none."""
    return lambda config: 0.0 if key in config else default


def _read_cap(cap: Any, config: Mapping[str, Any], *, key: str) -> Any:
    if config.get(key) == 0:
        raise CannotExpress([f"config.json: {key}=0: transformers divides by it; write null"])
    return cap


def _cap_row(key: str, ours: str, default: float) -> Row:
    return Row(
        key,
        _cap(key, default),
        (ours,),
        read=partial(_read_cap, key=key),
        write=lambda cap, _: cap or None,
    )


_RECIPE: Mapping[str, Any] = {
    "block": "sequential",
    "norm": "rmsnorm_plus_one",
    "norm_at": "both",
    "activation": "gelu_tanh",
}
_ROWS = [
    *sizes(tied=True, head_dim=256, kv_heads=4, activation=""),
    attention_bias(),
    Row("hidden_activation", "gelu_pytorch_tanh", only=("gelu_pytorch_tanh",)),
    Row("rms_norm_eps", 1e-6, ("norm_eps",)),
    Row(
        "hidden_size",
        None,
        ("embedding_scale",),
        read=lambda width, _: math.sqrt(width),
        write=lambda scale, _: round(scale**2),
    ),
    Row("query_pre_attn_scalar", 256, ("query_scale",), read=_read_scale, write=_write_scale),
]
_MODULES: Mapping[str, str] = {
    "norm": "input_layernorm",
    "post_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
    **ATTENTION,
    **FEED_FORWARD,
}

GEMMA2 = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    recipe=_RECIPE,
    rows=[
        *_ROWS,
        _cap_row("final_logit_softcapping", "logit_softcap", 30.0),
        _cap_row("attn_logit_softcapping", "attention_softcap", 50.0),
    ],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    modules=_MODULES,
    read_layers=partial(_read_layers, period=2),
    write_layers=_write_layers,
    whole_heads=True,
)

GEMMA3 = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    recipe={**_RECIPE, "qk_norm": True},
    rows=[
        *_ROWS,
        _cap_row("final_logit_softcapping", "logit_softcap", 0.0),
        # transformers 5.17 reads this key and ignores it, so the intended model is ambiguous; import raises.
        Row("attn_logit_softcapping", None, only=(None,)),
    ],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base={"full": 1_000_000.0, "window": 10_000.0},
    modules=_MODULES,
    read_layers=_read_layers_of_3,
    write_layers=_write_layers,
    layer_keys=("layer_types", "sliding_window", "sliding_window_pattern"),
    whole_heads=True,
)
