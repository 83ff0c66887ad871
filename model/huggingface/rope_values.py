"""Single values of a rotation in a config.json, read or refused."""

import math
from collections.abc import Mapping
from typing import Any

from model.huggingface.refusal import CannotExpress

ORIGINAL, CONTEXT = "original_max_position_embeddings", "max_position_embeddings"


def original_length(given: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The length before scaling. transformers 5 prefers the top-level key of config.json, transformers 4 ignores it."""
    key = "original_max_position_embeddings"
    original = given.get(key) or config.get("max_position_embeddings")
    outer = config.get(key, original)
    if outer != original:
        raise CannotExpress(
            [
                f"config.json: {key}: {original} beside the scaling, {outer} outside, and versions of transformers "
                "take one or the other; remove one of them"
            ]
        )
    if type(original) is not int or original < 1:
        raise CannotExpress([f"config.json: {key}={original}: must be a number of tokens"])
    return original


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(given: Mapping[str, Any], key: str) -> float:
    value: Any = given.get(key)
    if not is_number(value) or not math.isfinite(value):
        raise CannotExpress([f"config.json: rope {key}={value!r}: must be a number"])
    return float(value)
