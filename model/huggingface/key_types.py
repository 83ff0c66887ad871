"""Types of the values in a config.json, checked before a family reads them and after."""

from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from typing import Any

from model.config import ModelConfig

_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")  # fmt: skip
# Limits the length of the lists of layers, which are built before other checks.
_MOST, _LARGEST = {"num_hidden_layers": 1_000_000}, 2**31 - 1
# Other keys that are used before `wrong_types` checks fields; null stands for the family's default.
_WHOLE = (
    "num_key_value_heads", "head_dim", "sliding_window", "sliding_window_pattern", "max_window_layers",
    "no_rope_layer_interval", "max_position_embeddings",
)  # fmt: skip
_LISTS = ("layer_types", "no_rope_layers", "layer_rope_theta")


def wrong_keys(config: Mapping[str, Any], texts: Collection[str]) -> list[str]:
    """Messages about missing keys, and keys of a wrong type or size. texts: keys that may be a text too."""
    missing = [
        f"config.json: {key}={config.get(key)}: must be a whole number from 1 to {_MOST.get(key, _LARGEST)}"
        for key in _REQUIRED
        if type(config.get(key)) is not int or not 1 <= config[key] <= _MOST.get(key, _LARGEST)
    ]
    types = [(_WHOLE, int, "a whole number"), (_LISTS, list, "a list")]
    wrong = [
        f"config.json: {key}={config[key]!r}: must be {called}, or null"
        for keys, wanted, called in types
        for key in keys
        if config.get(key) is not None
        and type(config[key]) is not wanted
        and not (key in texts and type(config[key]) is str)
    ]
    return (
        missing
        + wrong
        + [
            f"config.json: {key}={config[key]}: must be from 0 to {_LARGEST}, or null"
            for key in _WHOLE
            if type(config.get(key)) is int and not 0 <= config[key] <= _LARGEST
        ]
    )


def wrong_types(values: dict[str, Any]) -> list[str]:
    """Messages about fields of a wrong type. Converts whole numbers to float in `values` where a field is a float.

    values: fields of `ModelConfig`.
    """
    wrong = []
    for known in fields(ModelConfig):
        if known.name not in values or known.default is MISSING:
            continue
        value, wanted = values[known.name], type(known.default)
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            wrong.append(
                f"config.json: {known.name} would be {value!r}, it must be of type {wanted.__name__}"
            )
        elif wanted is float:
            values[known.name] = float(value)
    return wrong
