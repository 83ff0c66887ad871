"""Llama 2, 3 and 3.1: the sequential block, full attention and rotation in every layer."""

from model.huggingface.family import Family, Row
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, attention_bias, sizes

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[
        *sizes(tied=False),
        attention_bias(),
        Row("mlp_bias", False, ("feed_forward_bias",)),
        Row("rms_norm_eps", 1e-6, ("norm_eps",)),
    ],
    kinds=frozenset({"full_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    layer_keys=(),
    whole_heads=True,
)
