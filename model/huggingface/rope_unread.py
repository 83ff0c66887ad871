"""Keys of the rotation in a config.json that its `rope_type` does not read, in transformers and here.

Other programs may read them: vLLM multiplies scores by `long_mscale` and `short_mscale` of LongRoPE in every family.
"""

from collections.abc import Mapping
from typing import Any

from model.huggingface.query_scale import BETA
from model.huggingface.rope_fields import KINDS, NEW
from model.huggingface.rope_partial import PARTIAL
from model.huggingface.rope_rules import PROPORTIONAL, RopeRules
from model.huggingface.rope_values import ORIGINAL

_ALWAYS = ("rope_type", "type", "rope_theta", PARTIAL)
# The other keys that each type reads. The original length of dynamic scaling is compared with the context length.
_READ: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", ORIGINAL),
    "yarn": (
        "factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
    ),
    "longrope": ("factor", ORIGINAL, "attention_factor", "short_factor", "long_factor"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    PROPORTIONAL: ("factor",),
}  # fmt: skip


def unread_keys(config: Mapping[str, Any], rules: RopeRules) -> list[str]:
    """Messages about such keys of a config.json that a family with these rules has read."""
    places = {"rope_scaling": config.get("rope_scaling"), NEW: config.get(NEW)}
    for name in KINDS.values():
        places[f"{NEW}.{name}"] = (config.get(NEW) or {}).get(name)
    return [
        f"config.json: {place}.{key}={value!r}: transformers does not read it in a {config['model_type']} with "
        f"rope_type={kind}, and it is not read here; other programs may read it"
        for place, given in places.items()
        if isinstance(given, Mapping)
        for kind in [_type_of(given, rules)]
        for key, value in given.items()
        if value is not None and key not in _read(kind, rules) and value != config.get(key)
    ]


def _type_of(given: Mapping[str, Any], rules: RopeRules) -> str:
    kind = str(given.get("rope_type", given.get("type", "default")))
    return rules.other_names.get(kind, kind)


def _read(kind: str, rules: RopeRules) -> tuple[str, ...]:
    scale = (BETA, ORIGINAL) if rules.scales_queries else ()
    return (*_ALWAYS, *_READ[kind], *scale, *KINDS.values())
