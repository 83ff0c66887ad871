"""Small, random and hard models of transformers, of every family: what tests of import and export begin with."""

from typing import Any

import torch

WINDOW = 8
LENGTHS = (WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5)
SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.05,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 2e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Families whose norms multiply by 1 + weight; families whose embedding or logits are scaled.
PLUS_ONE = ("gemma2", "gemma3_text")
SCALED = ("cohere", "cohere2", *PLUS_ONE)
GRANITE = {
    "embedding_multiplier": 12,
    "residual_multiplier": 0.28,
    "attention_multiplier": 0.21,
    "logits_scaling": 0.49,
}
PROPORTIONAL = {"rope_type": "proportional", "partial_rotary_factor": 0.5}
SLIDING = ["sliding_attention"] * 3 + ["full_attention"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere2": (
        "cohere2",
        {
            "sliding_window": WINDOW,
            "logit_scale": 0.25,
            "layer_types": SLIDING,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
        },
    ),
    "cohere2, untied, biases, a long window": (
        "cohere2",
        {
            "sliding_window": 100,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "logit_scale": 1.0,
        },
    ),
    "cohere": (
        "cohere",
        {"logit_scale": 0.25, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
    ),
    "cohere, a norm for each head, untied, biases": (
        "cohere",
        {
            "use_qk_norm": True,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "logit_scale": 1.0,
            "rope_parameters": YARN,
        },
    ),
    "llama 2": ("llama", {"num_key_value_heads": 6}),
    "llama 3, tied, biases": (
        "llama",
        {
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        },
    ),
    "llama 3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "mistral without a window": (
        "mistral",
        {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "ministral": (
        "ministral",
        {"sliding_window": WINDOW, "layer_types": ["full_attention", *SLIDING[:3]]},
    ),
    "qwen2": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "qwen2, tied, yarn": ("qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": SLIDING,
            "attention_bias": True,
        },
    ),
    "qwen3, tied": (
        "qwen3",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "smollm3": ("smollm3", {"pad_token_id": 0}),
    "smollm3 as rnope-swa": (
        "smollm3",
        {
            "pad_token_id": 0,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "no_rope_layers": [1, 1, 1, 0],
            "layer_types": SLIDING,
            "tie_word_embeddings": False,
            "mlp_bias": True,
        },
    ),
    "smollm3, windows where there is no rope": (
        "smollm3",
        {
            "pad_token_id": 0,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "rope_parameters": {**YARN, "truncate": False, "attention_factor": 1.3},
        },
    ),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 1.5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e4},
        },
    ),
    "gemma2, uncapped, untied, biases": (
        "gemma2",
        {
            "sliding_window": WINDOW,
            "layer_types": SLIDING,
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            "sliding_window": WINDOW,
            "layer_types": SLIDING,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
        },
    ),
    "gemma3, untied, biases": (
        "gemma3_text",
        {
            "sliding_window": 100,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "num_hidden_layers": 7,
        },
    ),
    "olmo2": ("olmo2", {}),
    "olmo3": (
        "olmo3",
        {
            "sliding_window": WINDOW,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
                "full_attention": {**YARN, "rope_theta": 5e5},
            },
        },
    ),
    "olmo3, biases": (
        "olmo3",
        {"sliding_window": WINDOW, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "exaone4": (
        "exaone4",
        {
            "sliding_window": WINDOW,
            "sliding_window_pattern": "LLLG",
            "layer_types": SLIDING,
            "rope_parameters": {**LLAMA3, "factor": 16.0},
        },
    ),
    "exaone4, full layers that rotate": (
        "exaone4",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 4,
            "tie_word_embeddings": True,
            "rope_parameters": {**LLAMA3, "factor": 16.0},
        },
    ),
    "exaone4, by the pattern alone": (
        "exaone4",
        {"sliding_window": WINDOW, "sliding_window_pattern": 2, "num_hidden_layers": 5},
    ),
    "exaone4, full layers that do not rotate": (
        "exaone4",
        {"sliding_window": WINDOW, "layer_types": ["full_attention"] * 4},
    ),
    "granite_swa as rnope-swa": (
        "granite_swa",
        {
            **GRANITE,
            "sliding_window": WINDOW,
            "layer_types": SLIDING,
            "layer_rope_theta": [5e4, 5e4, 5e4, 0],
        },
    ),
    "granite_swa, a base for every layer": (
        "granite_swa",
        {
            **GRANITE,
            "sliding_window": WINDOW,
            "num_hidden_layers": 7,
            "layer_types": ["full_attention", *SLIDING, *SLIDING[2:]],
            "layer_rope_theta": [5e5, 2e4, 3e3, 2e4, 4e5, 0.0, 0],
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": YARN,
        },
    ),
    "granite_swa, without lists": (
        "granite_swa",
        {"sliding_window": WINDOW, "num_hidden_layers": 6, "attention_multiplier": 0.25},
    ),
    "granite": (
        "granite",
        {
            **GRANITE,
            "residual_multiplier": 0.22,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
        },
    ),
    "granite, tied, biases": (
        "granite",
        {
            "embedding_multiplier": 7,
            "residual_multiplier": 3,
            "attention_multiplier": 0.13,
            "logits_scaling": 0.7,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 24,
            "rope_parameters": YARN,
        },
    ),
    "gpt-oss": (
        "gpt_oss",
        {
            "sliding_window": WINDOW,
            "num_local_experts": 1,
            "num_experts_per_tok": 1,
            "rope_parameters": {**YARN, "truncate": False, "beta_fast": 32.0, "beta_slow": 1.0},
        },
    ),
    "gpt-oss without biases": (
        "gpt_oss",
        {
            "sliding_window": WINDOW,
            "num_local_experts": 1,
            "num_experts_per_tok": 1,
            "attention_bias": False,
            "head_dim": 32,
        },
    ),
    "llama, proportional": (
        "llama",
        {"rope_parameters": {**PROPORTIONAL, "rope_theta": 3e4, "factor": 2.0}},
    ),
    "gemma3, proportional and dynamic": (
        "gemma3_text",
        {
            "sliding_window": WINDOW,
            "max_position_embeddings": WINDOW,
            "layer_types": SLIDING,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {
                "sliding_attention": {**PROPORTIONAL, "rope_theta": 1e4},
                "full_attention": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 4.0},
            },
        },
    ),
    "ministral3": (
        "ministral3",
        {
            "sliding_window": WINDOW,
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": WINDOW,
                "llama_4_scaling_beta": 0.7,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
    ),
    "ministral3, unscaled": (
        "ministral3",
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "original_max_position_embeddings": 2 * WINDOW,
                "llama_4_scaling_beta": 1.1,
            }
        },
    ),
    "phi3": ("phi3", {"sliding_window": WINDOW, "hidden_size": 96}),
    "phi3, half of each head": (
        "phi3",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 2e4,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "phi3, longrope of a part": (
        "phi3",
        {
            "hidden_size": 96,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": WINDOW,
            "rope_theta": 1e4,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4],
                "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
            },
        },
    ),
}


def their_model(kind: str, settings: dict[str, Any], seed: int = 0) -> Any:
    """A random model of transformers whose every number matters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")  # fmt: skip
    return fill(model, kind, tied=config.tie_word_embeddings, seed=seed)


@torch.no_grad()
def fill(model: Any, kind: str, *, tied: bool, seed: int = 0) -> Any:
    """Gives every parameter a random value of a size that makes logits of a few. kind: of the language model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "router" in name:
            parameter.zero_()
            continue
        parameter.normal_(generator=generator)
        if "norm" in name:
            parameter.mul_(0.3).add_(0.0 if kind in PLUS_ONE else 1.0)
        elif "bias" in name:
            parameter.mul_(0.5)
        elif "embed" in name:
            # Tied, it makes the logits too: of a size of a few, unless they are scaled.
            parameter.mul_(0.2 if tied and kind not in SCALED else 1.0)
        elif parameter.dim() > 1:
            fan_in = parameter.shape[-1] if "experts" not in name else parameter.shape[-2]
            parameter.mul_((1.3 if "lm_head" in name else 1.0) * fan_in**-0.5)
    return model.eval()
