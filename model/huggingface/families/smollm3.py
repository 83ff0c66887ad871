"""SmolLM3: Llama with NoPE layers; it can express RNoPE-SWA with sequential blocks.

Without `layer_types` transformers gives the window to the NoPE layers, the reverse of RNoPE-SWA; so export always
writes `layer_types`.
"""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    FULL,
    SLIDING,
    expanded,
    layer_types,
    windowed_pattern,
    written_types,
)
from model.huggingface.refusal import CannotExpress
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, attention_bias, sizes


def _read_layers(config: Mapping[str, Any]) -> Json:
    layers = config["num_hidden_layers"]
    interval = config.get("no_rope_layer_interval") or 4
    rotary = config.get("no_rope_layers")
    if rotary is None:
        rotary = [int((index + 1) % interval != 0) for index in range(layers)]
    if len(rotary) < layers or not set(rotary) <= {0, 1}:
        raise CannotExpress([f"config.json: no_rope_layers needs 0 or 1 for {layers} layers"])
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    windowed_nope = [SLIDING if window is not None and not turned else FULL for turned in rotary]
    types = layer_types(config, windowed_nope[:layers])
    if SLIDING in types and window is None:
        raise CannotExpress(
            [
                f"config.json: layer_types has {SLIDING}, but use_sliding_window and sliding_window are not both set, "
                "and kernels of transformers disagree on what that means; set them, or write full_attention"
            ]
        )
    kinds = [
        f"{'window' if kind == SLIDING else 'full'}_{'rope' if turned else 'nope'}"
        for kind, turned in zip(types, rotary, strict=False)
    ]
    return windowed_pattern(kinds, window)


def _write_layers(model: ModelConfig) -> Json:
    types = written_types(model)
    windowed = SLIDING in types
    return {
        "no_rope_layers": [int(kind.endswith("_rope")) for kind in expanded(model)],
        "layer_types": types,
        "use_sliding_window": windowed,
        "sliding_window": model.window if windowed else None,
    }


SMOLLM3 = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[
        *sizes(tied=True, kv_heads=4),
        attention_bias(),
        Row("mlp_bias", False, ("feed_forward_bias",)),
        Row("rms_norm_eps", 1e-6, ("norm_eps",)),
    ],
    kinds=frozenset({"full_rope", "full_nope", "window_rope", "window_nope"}),
    default_base=2_000_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=_read_layers,
    write_layers=_write_layers,
    layer_keys=(
        "layer_types",
        "sliding_window",
        "use_sliding_window",
        "no_rope_layers",
        "no_rope_layer_interval",
    ),
)
