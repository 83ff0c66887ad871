"""Why a stage cannot set what is the same in all stages: parameters, and the patterns of groups of parameters."""

from collections.abc import Sequence
from dataclasses import fields

from model.config import ModelConfig
from model.layer_pattern import KindConfig
from parallel.config import ParameterGroup


def belongs_to_model(path: Sequence[str]) -> str:
    """Returns why an unknown key below `schedule.stages` is no setting of a stage; "" if it is not one of the model's
    or of a group's.

    path: the parts of the key.
    """
    if list(path[:2]) != ["schedule", "stages"] or len(path) < 4:
        return ""
    name = path[-1]
    if path[3] == "groups":
        if len(path) != 6 or not _has(ParameterGroup, name):
            return ""
        return f"is the same in all stages; set optimizer.groups.{path[4]}.{name}"
    of_kind = len(path) == 6 and path[3] == "kinds" and _has(KindConfig, name)
    if not of_kind and not _has(ModelConfig, name):
        return ""
    there = f"model.kinds.{path[4]}.{name}" if of_kind else f"model.{name}"
    return f"belongs to the model, as its parameters do, and is the same in all stages; set {there}"


def _has(schema: type, name: str) -> bool:
    return name in {field.name for field in fields(schema)}
