"""Configurations of released models, with where each was found and what it says: the fields that its family is about.

Keys that no program reads for the model's function (tokens, dropout, `use_cache`, versions) are left out.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A released model. config: its config.json. fields: of our `ModelConfig`. base: of layers on the schedule."""

    config: dict[str, Any]
    fields: dict[str, Any]
    base: float


_EXAONE_ROPE = {
    "rope_theta": 1_000_000,
    "rope_scaling": {
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
}

_COMMAND_R = {
    "architectures": ["CohereForCausalLM"],
    "hidden_act": "silu",
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 131072,
    "model_max_length": 131072,
    "model_type": "cohere",
    "vocab_size": 256000,
}

PUBLISHED: dict[str, Published] = {
    # github.com/NVIDIA/TensorRT-LLM, tests/unittest/_torch/modeling/test_modeling_exaone4.py, with the number of layers
    # and the window that its comments give.
    "LGAI-EXAONE/EXAONE-4.0-32B": Published(
        {
            "architectures": ["Exaone4ForCausalLM"],
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 5120,
            "intermediate_size": 27392,
            "max_position_embeddings": 131072,
            "model_type": "exaone4",
            "num_attention_heads": 40,
            "num_hidden_layers": 64,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            **_EXAONE_ROPE,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "tie_word_embeddings": False,
            "vocab_size": 102400,
        },
        {
            "layer_pattern": ["window_rope"] * 3 + ["full_nope"],
            "window": 4096,
            "norm_at": "after",
            "qk_norm_over": "head",
        },
        1e6,
    ),
    # A public test of a program in Go that reads it (package exaone4, TestParseConfigExaone4TopLevel); `layer_types`
    # and the null of `sliding_window` are what transformers requires of a model without windows.
    "LGAI-EXAONE/EXAONE-4.0-1.2B": Published(
        {
            "architectures": ["Exaone4ForCausalLM"],
            "hidden_size": 2048,
            "intermediate_size": 4096,
            "layer_types": ["full_attention"] * 30,
            "max_position_embeddings": 65536,
            "model_type": "exaone4",
            "num_attention_heads": 32,
            "num_hidden_layers": 30,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            **_EXAONE_ROPE,
            "sliding_window": None,
            "sliding_window_pattern": "LLLG",
            "tie_word_embeddings": True,
            "vocab_size": 102400,
        },
        {"layer_pattern": ["full_rope"], "head_dim": 64, "tie_embeddings": True},
        1e6,
    ),
    # github.com/AI-Hypercomputer/maxtext, MaxText/utils/ckpt_conversion/utils/hf_model_configs.py; the other keys have
    # the values that transformers takes without them.
    "google/gemma-2-9b": Published(
        {
            "architectures": ["Gemma2ForCausalLM"],
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 3584,
            "intermediate_size": 14336,
            "max_position_embeddings": 8192,
            "model_type": "gemma2",
            "num_attention_heads": 16,
            "num_hidden_layers": 42,
            "num_key_value_heads": 8,
            "query_pre_attn_scalar": 224,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "vocab_size": 256000,
        },
        {
            "layer_pattern": ["window_rope", "full_rope"],
            "window": 4096,
            "attention_softcap": 50.0,
            "logit_softcap": 30.0,
            "query_scale": math.sqrt(256 / 224),
            "embedding_scale": math.sqrt(3584),
            "norm_at": "both",
            "tie_embeddings": True,
        },
        1e4,
    ),
    # The sizes of both: a public table of a program in Keras that reads them (COHERE_MODEL_CONFIG). The names of the
    # tensors of Command R+, with q_norm and k_norm: github.com/arcee-ai/mergekit, pull request 674.
    "CohereForAI/c4ai-command-r-v01": Published(
        {
            **_COMMAND_R,
            "hidden_size": 8192,
            "intermediate_size": 22528,
            "logit_scale": 0.0625,
            "num_attention_heads": 64,
            "num_hidden_layers": 40,
            "num_key_value_heads": 64,
            "rope_theta": 8000000.0,
        },
        {
            "layer_pattern": ["full_rope"],
            "block": "parallel",
            "norm": "layernorm",
            "logit_scale": 0.0625,
            "qk_norm": False,
        },
        8e6,
    ),
    "CohereForAI/c4ai-command-r-plus": Published(
        {
            **_COMMAND_R,
            "hidden_size": 12288,
            "intermediate_size": 33792,
            "logit_scale": 0.8333333333333334,
            "num_attention_heads": 96,
            "num_hidden_layers": 64,
            "num_key_value_heads": 8,
            "rope_theta": 75000000.0,
            "use_qk_norm": True,
        },
        {"qk_norm": True, "qk_norm_over": "each_head", "head_dim": 128, "tie_embeddings": True},
        7.5e7,
    ),
    # A public list of configurations and tensor shapes of released models; vocabulary and base are those of 3.3.
    "ibm-granite/granite-3.3-8b-base": Published(
        {
            "architectures": ["GraniteForCausalLM"],
            "attention_bias": False,
            "attention_multiplier": 0.0078125,
            "embedding_multiplier": 12.0,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 12800,
            "logits_scaling": 16.0,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "granite",
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_key_value_heads": 8,
            "residual_multiplier": 0.22,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10_000_000.0,
            "tie_word_embeddings": True,
            "vocab_size": 49159,
        },
        {
            "layer_pattern": ["full_rope"],
            "embedding_scale": 12.0,
            "residual_scale": 0.22,
            # 1 / 128 instead of 128 ** -0.5.
            "query_scale": 128**-0.5,
            "logit_scale": 1 / 16,
        },
        1e7,
    ),
    # github.com/onnxruntime/mobius, src/mobius/models/granite_swa_test.py: revision af1e3227100b of the model.
    "ibm-granite/granite-swash-2b": Published(
        {
            "architectures": ["GraniteSWAForCausalLM"],
            "attention_bias": False,
            "attention_multiplier": 0.0078125,
            "embedding_multiplier": 12,
            "hidden_act": "silu",
            "hidden_size": 2560,
            "intermediate_size": 8192,
            "layer_types": ["full_attention", *["sliding_attention"] * 3] * 6,
            "logits_scaling": 10,
            "max_position_embeddings": 8192,
            "mlp_bias": False,
            "model_type": "granite_swa",
            "num_attention_heads": 20,
            "num_hidden_layers": 24,
            "num_key_value_heads": 4,
            "residual_multiplier": 0.28,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000,
            "sliding_window": 128,
            "tie_word_embeddings": True,
            "vocab_size": 100352,
        },
        {
            "layer_pattern": ["full_rope"] + ["window_rope"] * 3,
            "window": 128,
            "sinks": True,
            "embedding_scale": 12.0,
            "residual_scale": 0.28,
            "query_scale": 128**-0.5,
            "logit_scale": 0.1,
            "kinds": {},
        },
        1e4,
    ),
}
