"""Configurations of released models, with where each was found and what it says: the fields that its family is about.

Keys that no program reads for the model's function (tokens, dropout, `use_cache`, versions) are left out.
"""

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
}
