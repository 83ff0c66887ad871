"""Reads a `ModelConfig` from the JSON of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from train.configuration.typed import read


def typed_model(content: Mapping[str, Any], where: str = "checkpoint") -> ModelConfig:
    """Returns the model that these values describe; keys that an older version did not have get their defaults.

    where: the file or checkpoint that holds the values, for messages.

    Raises:
        ValueError: the values are of a newer version, or damaged.
    """
    model, mistakes = read(ModelConfig, content, "model")
    problems = list(mistakes.values()) or ([] if model is None else model.problems())
    if problems or model is None:
        raise ValueError("\n".join(f"{where}: {problem}" for problem in problems))
    return model
