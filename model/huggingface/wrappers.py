"""Multimodal models of transformers around a language model of a family: its configuration, and its tensors' names.

    config.json    {model_type: gemma3, text_config: {...}, vision_config: {...}, ...}
    tensors        language_model.model.layers.0...    language_model.lm_head.weight    vision_tower...
      or           model.language_model.layers.0...    lm_head.weight                   model.vision_tower...
      or           language_model.layers.0...          (saved without a head)           vision_tower...

The first form is that of released files, the second that of the modules of transformers from 4.52 on. On text alone
these models compute what their language model computes, but for a scale and a cap of its logits, which they leave out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from model.config import ModelConfig
from model.huggingface.refusal import CannotExpress

Json = dict[str, Any]


@dataclass(frozen=True)
class Wrapper:
    """A multimodal model. text_type: the model_type of a text_config that names none. tied: its default of
    tie_word_embeddings. others: the first parts of the names of tensors that are not the language model's."""

    text_type: str
    tied: bool
    others: tuple[str, ...] = ("vision_tower", "multi_modal_projector")


WRAPPERS: Mapping[str, Wrapper] = MappingProxyType(
    {
        "gemma3": Wrapper("gemma3_text", tied=True),
        "mistral3": Wrapper("mistral", tied=True),
        "llava": Wrapper("llama", tied=False),
        "llava_next": Wrapper(
            "llama", tied=False, others=("vision_tower", "multi_modal_projector", "image_newline")
        ),
    }
)
# A text_config has only the keys that differ from the defaults of its class in transformers. These are the defaults of
# the keys that every language model names.
TEXT_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gemma3_text": {
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
        },
        "mistral": {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
        },
        "ministral3": {
            "vocab_size": 131_072,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 34,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "sliding_window": None,
            "tie_word_embeddings": False,
        },
        "llama": {
            "vocab_size": 32_000,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
        },
        "qwen2": {
            "vocab_size": 151_936,
            "hidden_size": 4096,
            "intermediate_size": 22_016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": False,
        },
    }
)
# Keys of the multimodal model that hold for its language model where the text_config has none.
_INHERITED = (
    "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config",
    "transformers_version", "_name_or_path",
)  # fmt: skip
_HEADS = ("lm_head.", "language_model.lm_head.")
_BODIES = ("language_model.model.", "model.language_model.", "language_model.")


def text_config(config: Mapping[str, Any], *, has_head: bool) -> Json:
    """The config.json of the language model in a multimodal one, complete.

    has_head: whether the files have a tensor for the head. Versions of transformers read tie_word_embeddings in
    different parts of config.json. Where the parts disagree, or where text_config does not say it for a model_type
    whose default is not listed here, has_head decides: all versions use a head that they find, and without one there
    is only the embedding.

    Raises:
        CannotExpress: `text_config` is no object.
    """
    wrapper, given = WRAPPERS[str(config["model_type"])], config.get("text_config")
    if not isinstance(given, Mapping):
        raise CannotExpress([f"config.json: text_config={given!r}: must be an object"])
    kind = str(given.get("model_type") or wrapper.text_type)
    found = {key: config[key] for key in _INHERITED if config.get(key) is not None}
    found |= {**TEXT_DEFAULTS.get(kind, {}), **given, "model_type": kind}
    if not found.get("architectures"):
        found.pop("architectures", None)
    outer, inner = (part.get("tie_word_embeddings") for part in (config, found))
    agree = inner == (wrapper.tied if outer is None else outer)
    found["tie_word_embeddings"] = inner if agree else not has_head
    return found


def head_obstacle(model: ModelConfig) -> str:
    """Why the logits of a multimodal model are not those of its language model alone; empty if they are."""
    for field, plain in (("logit_scale", 1.0), ("logit_softcap", 0.0)):
        if (value := getattr(model, field)) != plain:
            return (
                f"config.json: text_config: model.{field}={value}: the multimodal models of transformers leave it out, "
                "their language models do not; remove it from text_config if the model was trained without it"
            )
    return ""


def text_name(stored: str) -> str:
    """The name of a tensor of the language model, as in a model of its own; empty for all other tensors."""
    for head in _HEADS:
        if stored.startswith(head):
            return f"lm_head.{stored.removeprefix(head)}"
    for body in _BODIES:
        if stored.startswith(body):
            return f"model.{stored.removeprefix(body)}"
    return ""


def part_of(stored: str) -> str:
    """The part of the multimodal model that a tensor belongs to: `vision_tower`, ..."""
    return stored.removeprefix("model.").split(".")[0]
