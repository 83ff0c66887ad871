"""How every group of parameters trains in a stage: the settings of `optimizer.groups` with the stage's changes put in.

optimizer.groups.rest:                       {learning_rate_factor: 0.1}
schedule.stages.long.groups.rest:            {frozen: true}
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from model.config import ModelConfig
from model.parameters import parameter_names
from parallel.config import ParameterGroup
from parallel.engine.groups import (
    NO_GROUP,
    ORDINARY,
    WITHOUT_DECAY,
    GroupSettings,
    decayed_groups,
    group_problems,
    groups_of,
    settings_of,
)
from train.configuration.schema import StageGroupConfig


def stage_groups(
    groups: Mapping[str, ParameterGroup], changes: Mapping[str, StageGroupConfig]
) -> dict[str, GroupSettings]:
    """Returns how each group trains in a stage, by its name, and how parameters of no group do."""
    return {NO_GROUP: ORDINARY} | {
        name: replace(settings_of(group), **_given(changes.get(name, StageGroupConfig())))
        for name, group in groups.items()
    }


def stage_group_problems(
    model: ModelConfig,
    groups: Mapping[str, ParameterGroup],
    changes: Mapping[str, StageGroupConfig],
    stage: str,
) -> list[str]:
    """Returns every rule that the changes of a stage break, one line each. stage: the key of the stage."""
    found = []
    for name, change in changes.items():
        key = f"{stage}.groups.{name}"
        if name not in groups:
            has = f"there are {', '.join(groups)}" if groups else "there is none"
            found.append(f"{key}: is no group of optimizer.groups, {has}; declare it there")
            continue
        given = _given(change)
        if not given:
            found.append(
                f"{key}: changes nothing; give learning_rate_factor, weight_decay_factor or frozen, or drop it"
            )
        found += [
            f"{key}.{setting}={_shown(value)}: has no effect, it is that of optimizer.groups.{name}; drop it"
            for setting, value in given.items()
            if getattr(groups[name], setting) == value
        ]
    if found or not groups or model.problems() or group_problems(model, groups):
        return found
    settings, decayed = stage_groups(groups, changes), decayed_groups(model, groups)
    for name, one in settings.items():
        given = _given(changes[name]) if name in changes else {}
        found += [
            f"{stage}.groups.{name}.{setting}: has no effect where the group is frozen; drop it"
            for setting in given
            if one.frozen and setting != "frozen"
        ]
        if "weight_decay_factor" in given and not one.frozen and name not in decayed:
            found.append(f"{stage}.groups.{name}.weight_decay_factor: {WITHOUT_DECAY}")
    return found


def untrained_stages(
    model: ModelConfig,
    groups: Mapping[str, ParameterGroup],
    stages: Mapping[str, Mapping[str, StageGroupConfig]],
) -> list[str]:
    """Returns a line for every stage in which nothing trains, or one line if nothing trains in any.

    stages: what each changes in groups, by name of the stage.
    """
    unknown = any(name not in groups for changes in stages.values() for name in changes)
    if not groups or unknown or model.problems() or group_problems(model, groups):
        return []  # reported elsewhere
    names = parameter_names(model, range(model.num_layers))
    members = set(groups_of(names, model, groups).values())
    still = []
    for name, changes in stages.items():
        settings = stage_groups(groups, changes)
        if all(settings[group].frozen for group in members):
            still.append(name)
    rule = "so nothing trains; add a last group that is not frozen, with the parameters to train"
    if len(still) == len(stages):
        return [f"optimizer.groups: every parameter is frozen in every stage, {rule}"]
    return [f"schedule.stages.{name}: every parameter is frozen, {rule}" for name in still]


def _given(change: StageGroupConfig) -> dict[str, Any]:
    """The settings that a stage changes."""
    return {name: value for name, value in asdict(change).items() if value is not None}


def _shown(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
