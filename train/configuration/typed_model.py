"""The model of a checkpoint's JSON as its dataclass."""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from train.configuration.typed import read


def typed_model(content: Mapping[str, Any], where: str = "checkpoint") -> ModelConfig:
    """The model that these values describe; what an older version did not know has its default.

    where: what holds them, for messages.

    Raises:
        ValueError: it is of a newer version, or not what was written.
    """
    model, mistakes = read(ModelConfig, content, "model")
    problems = list(mistakes.values()) or ([] if model is None else model.problems())
    if problems or model is None:
        raise ValueError("\n".join(f"{where}: {problem}" for problem in problems))
    return model
