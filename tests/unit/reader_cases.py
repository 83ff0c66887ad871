"""Small models of every family, plain and each with one thing that a program other than transformers may not read."""

from typing import Any

from model.huggingface.catalogue import BY_TYPE
from model.huggingface.readers import VERSIONS, limits_of
from tests.unit.huggingface_cases import SIZES, SLIDING, WINDOW

VOCABULARY = 320
# Heads as wide as width / heads, the only width that some programs know.
PLAIN: dict[str, Any] = {"vocab_size": VOCABULARY, "head_dim": 8, "rms_norm_eps": 1e-5}
WIDE = {"head_dim": 32}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
BIASES = {"attention_bias": True}
LINEAR = {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
LLAMA3 = {
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 5e4, "factor": 4.0, "original_max_position_embeddings": 16,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }
}  # fmt: skip
# Half of the pairs of a head of 32 lie on the ramp of YaRN.
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
YARN = {"rope_parameters": _YARN}
YARN_OF_ITS_OWN = {"rope_parameters": {**_YARN, "beta_fast": 12.0, "beta_slow": 2.0}}
YARN_SCALED = {"rope_parameters": {**_YARN, "attention_factor": 1.3}}
YARN_WHOLE = {"rope_parameters": {**_YARN, "truncate": False}}
BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
EVERY_OTHER = ["sliding_attention", "full_attention"] * 2
FULL = ["full_attention"] * 4


def _by_kind(full: dict[str, Any], window: float = 1e4) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "full_attention": full,
            "sliding_attention": {"rope_type": "default", "rope_theta": window},
        }
    }


_COHERE2 = {"sliding_window": WINDOW, "logit_scale": 0.25, "layer_types": SLIDING, **BASE}
_QWEN = {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": SLIDING}
_SMOLLM3 = {"no_rope_layers": [1, 1, 1, 0], "layer_types": FULL}
_GEMMA3 = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 8,
    **_by_kind({"rope_type": "default", "rope_theta": 1e6}),
}
_OLMO3 = {
    "layer_types": SLIDING,
    "sliding_window": WINDOW,
    **_by_kind({"rope_type": "default", "rope_theta": 5e5}, 5e5),
}
_GPT_OSS = {
    "num_local_experts": 1, "num_experts_per_tok": 1, "sliding_window": WINDOW, "layer_types": EVERY_OTHER,
    **YARN_WHOLE,
}  # fmt: skip

# The family, and what differs from PLAIN.
READER_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere2": ("cohere2", _COHERE2),
    "cohere2, head_dim": ("cohere2", {**_COHERE2, **WIDE}),
    "cohere2, untied": ("cohere2", {**_COHERE2, **UNTIED}),
    "cohere2, biases": ("cohere2", {**_COHERE2, **BIASES}),
    "cohere2, one to one": ("cohere2", {**_COHERE2, "layer_types": EVERY_OTHER}),
    "cohere2, yarn": ("cohere2", {**_COHERE2, **YARN}),
    "llama": ("llama", {}),
    "llama, head_dim, tied, a base": ("llama", {**WIDE, **TIED, **BASE}),
    "llama, biases": ("llama", {**BIASES, "mlp_bias": True}),
    "llama, linear": ("llama", LINEAR),
    "llama, llama3": ("llama", LLAMA3),
    "llama, yarn": ("llama", {**WIDE, **YARN}),
    "llama, yarn, other betas": ("llama", {**WIDE, **YARN_OF_ITS_OWN}),
    "llama, yarn, attention_factor": ("llama", {**WIDE, **YARN_SCALED}),
    "llama, yarn, truncate": ("llama", {**WIDE, **YARN_WHOLE}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, head_dim, yarn": ("mistral", {"sliding_window": None, **WIDE, **YARN}),
    "mistral, llama3": ("mistral", {"sliding_window": None, **LLAMA3}),
    "mistral, window": ("mistral", {"sliding_window": WINDOW}),
    "ministral": ("ministral", {"sliding_window": WINDOW, "layer_types": SLIDING}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied, yarn": ("qwen2", {**TIED, **YARN}),
    "qwen2, llama3": ("qwen2", LLAMA3),
    "qwen2, head_dim": ("qwen2", WIDE),
    "qwen2, window": ("qwen2", _QWEN),
    "qwen3": ("qwen3", {**WIDE, **TIED}),
    "qwen3, llama3": ("qwen3", LLAMA3),
    "qwen3, biases": ("qwen3", BIASES),
    "qwen3, window": ("qwen3", _QWEN),
    "smollm3": ("smollm3", _SMOLLM3),
    "smollm3, head_dim, untied, yarn": ("smollm3", {**_SMOLLM3, **WIDE, **UNTIED, **YARN}),
    "smollm3, rotation in all": ("smollm3", {**_SMOLLM3, "no_rope_layers": [1, 1, 1, 1]}),
    "smollm3, window": ("smollm3", {**_SMOLLM3, **_QWEN}),
    "smollm3, biases": ("smollm3", {**_SMOLLM3, **BIASES}),
    "smollm3, biases of the feed-forward": ("smollm3", {**_SMOLLM3, "mlp_bias": True}),
    "gemma3": ("gemma3_text", _GEMMA3),
    "gemma3, head_dim, softcap": (
        "gemma3_text",
        {**_GEMMA3, **WIDE, "query_pre_attn_scalar": 32, "final_logit_softcapping": 3.0},
    ),
    "gemma3, three to one": ("gemma3_text", {**_GEMMA3, "num_hidden_layers": 4, "layer_types": SLIDING}),
    "gemma3, linear": (
        "gemma3_text",
        {**_GEMMA3, **_by_kind({"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0})},
    ),
    "gemma3, yarn": ("gemma3_text", {**_GEMMA3, **_by_kind(_YARN)}),
    "gemma3, query_pre_attn_scalar": ("gemma3_text", {**_GEMMA3, "query_pre_attn_scalar": 24}),
    "gemma3, untied": ("gemma3_text", {**_GEMMA3, **UNTIED}),
    "gemma3, biases": ("gemma3_text", {**_GEMMA3, **BIASES}),
    "olmo2": ("olmo2", BASE),
    "olmo2, head_dim": ("olmo2", WIDE),
    "olmo2, tied": ("olmo2", TIED),
    "olmo2, biases": ("olmo2", BIASES),
    "olmo2, llama3": ("olmo2", LLAMA3),
    "olmo2, yarn": ("olmo2", YARN),
    "olmo3": ("olmo3", _OLMO3),
    "olmo3, one to one": ("olmo3", {**_OLMO3, "layer_types": EVERY_OTHER}),
    "olmo3, yarn": ("olmo3", {**_OLMO3, **_by_kind({**_YARN, "rope_theta": 5e5}, 5e5)}),
    "olmo3, a base of windows": ("olmo3", {**_OLMO3, **_by_kind({"rope_type": "default", "rope_theta": 5e5}, 9e3)}),
    "gpt_oss": ("gpt_oss", {**_GPT_OSS, **WIDE}),
    "gpt_oss, unscaled": ("gpt_oss", {**_GPT_OSS, **BASE}),
    "gpt_oss, without biases": ("gpt_oss", {**_GPT_OSS, "attention_bias": False}),
    "gpt_oss, tied": ("gpt_oss", {**_GPT_OSS, **TIED}),
    "gpt_oss, three to one": ("gpt_oss", {**_GPT_OSS, "layer_types": SLIDING}),
}  # fmt: skip
# Families with which no other program was run: the family, and what differs from PLAIN.
OTHER_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "exaone4": ("exaone4", {"sliding_window": WINDOW, "layer_types": SLIDING, **BASE}),
    "cohere": ("cohere", BASE),
    "gemma2": ("gemma2", {"sliding_window": WINDOW}),
    "granite_swa": (
        "granite_swa",
        {"sliding_window": WINDOW, "layer_types": SLIDING, "layer_rope_theta": [1e4, 5e4, 1e4, 0]},
    ),
    "granite": ("granite", {"attention_multiplier": 0.25, "residual_multiplier": 0.22}),
    "ministral3": ("ministral3", {}),
    "phi3": ("phi3", {"sliding_window": WINDOW, "partial_rotary_factor": 0.5, **BASE}),
}


def said(case: str, reader: str) -> list[str]:
    """What an export of this case says of a program."""
    kind, changes = {**READER_CASES, **OTHER_CASES}[case]
    family = BY_TYPE[kind]
    read = family.read({**SIZES, "model_type": kind, **PLAIN, **changes})
    written = family.write(read.model, read.rope_base, read.context_length)
    return limits_of(written).get(f"{reader} {VERSIONS[reader]}", [])
