"""Ministral 3: Mistral with YaRN and a scale of the queries by position.

Released as the language model of a multimodal model (`model_type` mistral3), under `text_config`.
"""

from model.huggingface.family import Family, Row
from model.huggingface.layer_fields import read_alike, write_alike
from model.huggingface.rope_rules import RopeRules
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, sizes

MINISTRAL3 = Family(
    model_type="ministral3",
    architecture="Ministral3ForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[*sizes(tied=False, head_dim=128, kv_heads=8), Row("rms_norm_eps", 1e-5, ("norm_eps",))],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    default_rope={
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=read_alike,
    write_layers=write_alike,
    layer_keys=("sliding_window",),
    rope_rules=RopeRules(scales_queries=True),
    new_in_5=True,
)
