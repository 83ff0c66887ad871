"""The model of a checkpoint's JSON as its dataclass."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from model.config import ModelConfig

_MODEL = TypeAdapter(ModelConfig)


def typed_model(content: Mapping[str, Any]) -> ModelConfig:
    """The model that `RunState.model` describes; what an older version did not know has its default.

    Raises:
        ValueError: it is of a newer version, or not what was written.
    """
    known = ModelConfig.__dataclass_fields__
    strange = sorted(set(content) - set(known))
    if strange:
        raise ValueError(f"checkpoint: model.{strange[0]} is unknown to this version")
    try:
        model = _MODEL.validate_python(dict(content))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ValueError(f"checkpoint: model.{where}: {error.errors()[0]['msg']}") from error
    if problems := model.problems():
        raise ValueError("\n".join(f"checkpoint: {problem}" for problem in problems))
    return model
