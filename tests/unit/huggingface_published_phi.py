"""Configurations of released Phi and Ministral 3 models; see `huggingface_published.py`."""

from typing import Any

from tests.unit.huggingface_published import Published

_MINI: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
_LONG_OF_128K = [
    1.0299999713897705, 1.0499999523162842, 1.0499999523162842, 1.0799999237060547, 1.2299998998641968,
    1.2299998998641968, 1.2999999523162842, 1.4499999284744263, 1.5999999046325684, 1.6499998569488525,
    1.8999998569488525, 2.859999895095825, 3.68999981880188, 5.419999599456787, 5.489999771118164, 5.489999771118164,
    9.09000015258789, 11.579999923706055, 15.65999984741211, 15.769999504089355, 15.789999961853027,
    18.360000610351562, 21.989999771118164, 23.079999923706055, 30.009998321533203, 32.35000228881836,
    32.590003967285156, 35.56000518798828, 39.95000457763672, 53.840003967285156, 56.20000457763672,
    57.95000457763672, 59.29000473022461, 59.77000427246094, 59.920005798339844, 61.190006256103516,
    61.96000671386719, 62.50000762939453, 63.3700065612793, 63.48000717163086, 63.48000717163086, 63.66000747680664,
    63.850006103515625, 64.08000946044922, 64.760009765625, 64.80001068115234, 64.81001281738281, 64.81001281738281,
]  # fmt: skip
_SHORT_OF_128K = [
    1.05, 1.05, 1.05, 1.1, 1.1, 1.1, 1.25, 1.25, 1.4, 1.45, 1.55, 1.85, 1.9, *[2.0] * 19, 2.1, 2.1, 2.2, *[2.35] * 4,
    2.4, 2.4, 2.65, 2.7, 2.9, 2.95, 3.05, 3.05, 3.05,
]  # fmt: skip
LONG_OF_MINI_4 = [
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424,
    6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215,
    18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64,
    32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
]  # fmt: skip

PHI_AND_MINISTRAL: dict[str, Published] = {
    # github.com/NVIDIA/TensorRT-LLM, tests/unittest/_torch/modeling/test_modeling_phi3.py.
    "microsoft/Phi-3-mini-4k-instruct": Published(
        _MINI | {"max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047},
        {"layer_pattern": ["window_rope"], "window": 2047, "kinds": {}, "head_dim": 96},
        1e4,
    ),
    # github.com/huggingface/diffusers, the test of the first OmniGen pipeline: the language model of
    # Phi-3-vision-128k-instruct, whose short factors are written here without the rounding errors of their sums.
    # `type` is su there, which transformers 5.17 does not load.
    "microsoft/Phi-3-vision-128k-instruct": Published(
        _MINI
        | {
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "long_factor": _LONG_OF_128K,
                "short_factor": _SHORT_OF_128K,
                "type": "longrope",
            },
            "sliding_window": 131072,
        },
        {"layer_pattern": ["window_rope"], "window": 131072},
        1e4,
    ),
    # A public test of a program in Rust that reads it (phi4_config_json).
    "microsoft/phi-4": Published(
        {
            "model_type": "phi3",
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 10,
            "intermediate_size": 17920,
            "vocab_size": 100352,
            "max_position_embeddings": 16384,
            "rope_theta": 250000.0,
            "rms_norm_eps": 1e-05,
            "hidden_act": "silu",
        },
        {"layer_pattern": ["full_rope"], "kinds": {}, "head_dim": 128, "num_kv_heads": 10},
        250_000.0,
    ),
    # A public test of a program in Swift that reads it (phi3MiniSourceLockedConfig), without the keys of quantisation.
    "microsoft/Phi-4-mini-instruct": Published(
        _MINI
        | {
            "full_attn_mod": 1,
            "interpolate_factor": 1,
            "lm_head_bias": False,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 24,
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "long_factor": LONG_OF_MINI_4,
                "short_factor": [1.0] * 48,
                "type": "longrope",
            },
            "sliding_window": 262144,
            "tie_word_embeddings": True,
            "vocab_size": 200064,
        },
        {
            "layer_pattern": ["window_rope"],
            "window": 262144,
            "head_dim": 128,
            "tie_embeddings": True,
        },
        1e4,
    ),
    # A public program with the values of the 3B model as a class (Ministral3TextConfig): the text_config of the model.
    "mistralai/Ministral-3-3B-Base-2512": Published(
        {
            "model_type": "ministral3",
            "vocab_size": 131072,
            "hidden_size": 3072,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-05,
            "tie_word_embeddings": True,
            "sliding_window": None,
            "rope_parameters": {
                "type": "yarn",
                "rope_type": "yarn",
                "factor": 16.0,
                "original_max_position_embeddings": 16384,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
                "rope_theta": 1000000.0,
            },
        },
        {"layer_pattern": ["full_rope"], "head_dim": 128, "tie_embeddings": True},
        1e6,
    ),
}
