"""Limits of llama.cpp, vLLM and SGLang with exported models, as conditions on the config.json.

llama.cpp's limits were found by running it on small models (`make benchmark ARGS=llama_cpp_logits`), those of vLLM and
SGLang by reading the sources of the versions below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.huggingface.layer_fields import FULL, SLIDING, every
from model.huggingface.rope_rules import PROPORTIONAL

Config = Mapping[str, Any]
LLAMA_CPP, VLLM, SGLANG = "llama.cpp", "vLLM", "SGLang"
# The versions examined. For llama.cpp: the version of llama-cpp-python, with the converter in its sources.
VERSIONS: Mapping[str, str] = {LLAMA_CPP: "0.3.36", VLLM: "0.33.0", SGLANG: "0.5.23"}


@dataclass(frozen=True)
class Limit:
    """A limit of `reader` for models of these families (model_type) if `concerns(config)` is true."""

    reader: str
    families: str
    concerns: Callable[[Config], bool]
    says: str


def limits_of(config: Config) -> dict[str, list[str]]:
    """How each program, by name and version, treats a model differently from transformers.

    config: a config.json from `Family.write`, which has every key of the family.
    """
    found: dict[str, list[str]] = {}
    if config.get("attn_logit_softcapping"):
        found[_TRANSFORMERS] = [_UNCAPPED]
    if config["model_type"] not in EXAMINED:
        return found | {f"{reader} {version}": [_UNKNOWN] for reader, version in VERSIONS.items()}
    for limit in LIMITS:
        if config["model_type"] in limit.families.split() and limit.concerns(config):
            found.setdefault(f"{limit.reader} {VERSIONS[limit.reader]}", []).append(limit.says)
    for kind in sorted(_rope_types(config) & {"dynamic", "longrope", PROPORTIONAL}):
        for reader, version in VERSIONS.items():
            says = f"was not examined with rope_type={kind}"
            found.setdefault(f"{reader} {version}", []).append(says)
    return found


def _rope_types(config: Config) -> set[str]:
    parameters: Mapping[str, Any] = config["rope_parameters"]
    kinds = parameters.values() if "rope_type" not in parameters else [parameters]
    return {kind["rope_type"] for kind in kinds}


def _always(_: Config) -> bool:
    return True


def _wide(config: Config) -> bool:
    return bool(config["head_dim"] * config["num_attention_heads"] != config["hidden_size"])


def _tied(config: Config) -> bool:
    return bool(config["tie_word_embeddings"])


def _untied(config: Config) -> bool:
    return not _tied(config)


def _biased(config: Config) -> bool:
    return bool(config.get("attention_bias") or config.get("mlp_bias"))


def _biased_feed_forward(config: Config) -> bool:
    return bool(config.get("mlp_bias"))


def _unbiased(config: Config) -> bool:
    return not config["attention_bias"]


def _windowed(config: Config) -> bool:
    if config["model_type"] == "mistral":
        return config["sliding_window"] is not None
    return SLIDING in config["layer_types"]


def _not_every(period: int) -> Callable[[Config], bool]:
    return lambda config: config["layer_types"] != every(period, config["num_hidden_layers"])


def _other_rotary_layers(config: Config) -> bool:
    rotary = config["no_rope_layers"]
    return bool(rotary != [int((layer + 1) % 4 != 0) for layer in range(len(rotary))])


def _full_rope(config: Config) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config["rope_parameters"]
    inner: Mapping[str, Any] = found.get(FULL, found)
    return inner


def _scaled(config: Config) -> bool:
    return bool(_full_rope(config)["rope_type"] != "default")


def _unscaled(config: Config) -> bool:
    return not _scaled(config)


def _llama3(config: Config) -> bool:
    return bool(_full_rope(config)["rope_type"] == "llama3")


def _own_attention_factor(config: Config) -> bool:
    return _full_rope(config).get("attention_factor") is not None


def _own_betas(config: Config) -> bool:
    rope = _full_rope(config)
    return (rope.get("beta_fast", 32.0), rope.get("beta_slow", 1.0)) != (32.0, 1.0)


def _whole_ramp(config: Config) -> bool:
    return _full_rope(config).get("truncate") is False


def _own_base_of_windows(config: Config) -> bool:
    bases = {rope["rope_theta"] for rope in config["rope_parameters"].values()}
    return _windowed(config) and len(bases) > 1


def _other_query_scale(config: Config) -> bool:
    width = config["head_dim"]
    if (
        config["num_hidden_layers"] == 62
    ):  # Gemma 3 27B, which llama.cpp identifies by its number of layers
        width = config["hidden_size"] // config["num_attention_heads"]
    return bool(config["query_pre_attn_scalar"] != width)


_ALL = "cohere2 llama mistral ministral qwen2 qwen3 smollm3 gemma3_text olmo2 olmo3 gpt_oss"
# The families that were examined in all three programs.
EXAMINED = frozenset(_ALL.split())
_TRANSFORMERS = "transformers 5.17.0 and 4.57.3"
_UNCAPPED = (
    "leave the cap of attention scores out with sdpa, the attention they choose by default; load the model with "
    'attn_implementation="eager", or with flash attention'
)
_UNKNOWN = "was not examined with this family"
_WINDOWS_IGNORED = "has no windows in this family: every token sees all keys before it"
_HEADS = "takes hidden_size / num_attention_heads for the width of a head"
_HEAD_IGNORED = "takes the embedding for the head and leaves the head out"

LIMITS: tuple[Limit, ...] = (
    Limit(LLAMA_CPP, "ministral", _always, "does not know MinistralForCausalLM"),
    Limit(LLAMA_CPP, "cohere2 qwen2 olmo2 olmo3", _wide, f"cannot load it: {_HEADS}"),
    Limit(LLAMA_CPP, "cohere2", _untied, "cannot convert a head of its own"),
    Limit(LLAMA_CPP, "olmo2 olmo3 gpt_oss", _tied, "cannot load a tied head"),
    Limit(LLAMA_CPP, "cohere2 qwen3 smollm3 gemma3_text olmo2 olmo3", _biased, "reads no biases"),
    Limit(LLAMA_CPP, "gpt_oss", _unbiased, "cannot load attention without biases"),
    Limit(LLAMA_CPP, "cohere2", _not_every(4), "takes every fourth layer for the full one"),
    Limit(LLAMA_CPP, "gemma3_text", _not_every(6), "takes every sixth layer for the full one"),
    Limit(LLAMA_CPP, "gpt_oss", _not_every(2), "takes every second layer for the full one"),
    Limit(LLAMA_CPP, "smollm3", _other_rotary_layers, "rotates all layers but every fourth"),
    Limit(LLAMA_CPP, "mistral qwen2 qwen3 smollm3", _windowed, _WINDOWS_IGNORED),
    Limit(LLAMA_CPP, "gemma3_text", _other_query_scale, "takes head_dim for query_pre_attn_scalar"),
    Limit(LLAMA_CPP, "cohere2", _scaled, "leaves the scaling of the rotation out"),
    Limit(LLAMA_CPP, "qwen2 qwen3 olmo2 olmo3", _llama3, "leaves llama3 scaling out"),
    Limit(LLAMA_CPP, "olmo3", _own_base_of_windows, "takes the full layers' base for windowed ones"),
    Limit(LLAMA_CPP, _ALL, _own_attention_factor, "multiplies attention_factor with its own"),
    Limit(LLAMA_CPP, _ALL, _own_betas, "takes 32 and 1 for YaRN's beta_fast and beta_slow"),
    Limit(LLAMA_CPP, _ALL, _whole_ramp, "rounds the limits of YaRN's ramp (truncate)"),
    Limit(VLLM, "cohere2", _windowed, "gives windows one key more"),
    Limit(VLLM, "cohere2", _untied, _HEAD_IGNORED),
    Limit(VLLM, "cohere2 qwen3", _biased, "refuses biases of o_proj"),
    Limit(VLLM, "qwen2", _wide, _HEADS),
    Limit(VLLM, "qwen2 qwen3", _windowed, "refuses windows in some layers"),
    Limit(VLLM, "gpt_oss", _not_every(2), "takes every second layer for the full one"),
    Limit(VLLM, "gpt_oss", _unscaled, "requires YaRN"),
    Limit(SGLANG, "cohere2 olmo2", _wide, _HEADS),
    Limit(SGLANG, "cohere2", _windowed, "gives windows one key more"),
    Limit(SGLANG, "cohere2", _untied, _HEAD_IGNORED),
    Limit(SGLANG, "cohere2", _biased, "leaves biases out"),
    Limit(SGLANG, "llama", _biased_feed_forward, "leaves biases of the feed-forward out"),
    Limit(SGLANG, "mistral qwen2 qwen3", _windowed, _WINDOWS_IGNORED),
    Limit(SGLANG, "gemma3_text", _scaled, "leaves the scaling of the rotation out"),
)  # fmt: skip
