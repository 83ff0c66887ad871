"""OLMo 2 and OLMo 3: norms after attention and feed-forward, and norms over the queries and keys of all heads.

The two versions of transformers differ in the base of an OLMo 3 whose config.json gives none, as for Cohere.
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
from model.huggingface.rope_fields import refuse_without_base
from model.huggingface.rope_rules import RopeRules
from model.huggingface.rows import ATTENTION, FEED_FORWARD, attention_bias, sizes

_RECIPE = {
    "block": "sequential",
    "norm": "rmsnorm",
    "norm_at": "after",
    "qk_norm": True,
    "qk_norm_over": "projection",
}
_ROWS = [*sizes(tied=False), attention_bias(), Row("rms_norm_eps", 1e-5, ("norm_eps",))]
_MODULES = {
    "post_norm": "post_attention_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
    **ATTENTION,
    **FEED_FORWARD,
}


def _read_layers(config: Mapping[str, Any]) -> Json:
    types = layer_types(config, every(4, config["num_hidden_layers"]))
    refuse_without_base(config, before_5=10_000.0, now=500_000.0)
    kinds = ["window_rope" if kind == SLIDING else "full_rope" for kind in types]
    return windowed_pattern(kinds, config.get("sliding_window", 4096))


def _write_layers(model: ModelConfig) -> Json:
    return {"layer_types": written_types(model), "sliding_window": model.window}


OLMO2 = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    recipe=_RECIPE,
    rows=_ROWS,
    kinds=frozenset({"full_rope"}),
    default_base=10_000.0,
    modules=_MODULES,
    layer_keys=(),
    rope_rules=RopeRules(old_fields={"linear": ("type", "factor"), "dynamic": ("type", "factor")}),
)

OLMO3 = Family(
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    recipe=_RECIPE,
    rows=_ROWS,
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base={"full": 500_000.0, "window": 500_000.0},
    modules=_MODULES,
    read_layers=_read_layers,
    write_layers=_write_layers,
)
