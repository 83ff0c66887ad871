"""Whether settings of groups of parameters matter, given what every stage changes in them. For `idle.py`."""

from collections.abc import Iterator

from parallel.engine.groups import ORDINARY, GroupSettings
from train.configuration.schema import RunConfig
from train.schedule.groups import stage_groups


def trains(run: RunConfig, group: str) -> bool:
    """Whether the parameters of a group train in some stage."""
    return any(not settings[group].frozen for settings in _by_stage(run) if group in settings)


def some_group_differs(run: RunConfig) -> bool:
    """Whether some group trains otherwise than parameters without a group, in some stage."""
    return any(one != ORDINARY for settings in _by_stage(run) for one in settings.values())


def _by_stage(run: RunConfig) -> Iterator[dict[str, GroupSettings]]:
    groups = run.optimizer.groups
    return (stage_groups(groups, row.groups) for row in run.schedule.stages.values())
