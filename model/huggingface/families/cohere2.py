"""Cohere2 (Command R7B, Command A): the parallel block and RNoPE-SWA.

Heads are rotated in adjacent pairs, as ours. Only windowed layers are rotary.

The released config.json has keys that other programs read and transformers does not (llama.cpp: `rotary_pct`). Each
has the same value in all models of the family. Where windowed layers come in equal groups, each before one full
layer, export writes the keys of transformers 4.48 too.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    FULL,
    SLIDING,
    every,
    layer_types,
    windowed_pattern,
    written_types,
)
from model.huggingface.refusal import CannotExpress
from model.huggingface.rows import ATTENTION, FEED_FORWARD, attention_bias, sizes

# Keys for the period of full layers: in transformers 4.48, and in the released files.
_PERIOD = ("sliding_window_pattern", "layer_switch")
_ORDER = "order_of_interleaved_layers"
# Keys with the same value in all released files of the family.
_PUBLISHED: Mapping[str, Any] = {
    "rotary_pct": 1.0,
    "position_embedding_type": "rope_gptj",
    "use_parallel_block": True,
    "use_gated_activation": True,
}


def _read_layers(config: Mapping[str, Any]) -> Json:
    period = config.get("sliding_window_pattern") or 4
    others = {"layer_switch": period, _ORDER: "local_attn_first"}
    for key, value in others.items():
        if config.get("layer_types") is None and config.get(key) not in (None, value):
            raise CannotExpress(
                [
                    f"config.json: {key}={config[key]!r}: transformers takes {value} for it; write layer_types"
                ]
            )
    types = layer_types(config, every(period, config["num_hidden_layers"]))
    kinds = ["window_rope" if kind == SLIDING else "full_nope" for kind in types]
    return windowed_pattern(kinds, config.get("sliding_window", 4096))


def _write_layers(model: ModelConfig) -> Json:
    types = written_types(model)
    # Also without windowed layers: transformers requires a number.
    written: Json = {"layer_types": types, "sliding_window": model.window}
    period = types.index(FULL) + 1 if FULL in types else 0
    if period > 1 and types == every(period, len(types)):
        written |= dict.fromkeys(_PERIOD, period) | {_ORDER: "local_attn_first"}
    return written


COHERE2 = Family(
    model_type="cohere2",
    architecture="Cohere2ForCausalLM",
    recipe={"block": "parallel", "norm": "layernorm"},
    rows=[
        *sizes(tied=True),
        attention_bias(),
        Row("layer_norm_eps", 1e-5, ("norm_eps",)),
        Row("logit_scale", 0.0625, ("logit_scale",)),
        *(Row(key, value, only=(value,)) for key, value in _PUBLISHED.items()),
    ],
    kinds=frozenset({"window_rope", "full_nope"}),
    default_base=10_000.0,
    halves=False,
    modules={"norm": "input_layernorm", **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
    layer_keys=("layer_types", "sliding_window", *_PERIOD, _ORDER),
    published=(*_PUBLISHED, *_PERIOD, _ORDER),
)
