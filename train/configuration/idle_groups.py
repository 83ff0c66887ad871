"""Whether settings of groups of parameters matter, given what every stage changes in them. For `idle.py`."""

from collections.abc import Iterator

from model.parameters import parameter_names
from parallel.engine.groups import GroupSettings, groups_of
from train.configuration.schema import RunConfig
from train.schedule.groups import stage_groups


def trains(run: RunConfig, group: str) -> bool:
    """Whether the parameters of a group train in some stage."""
    return any(not settings[group].frozen for settings in _by_stage(run) if group in settings)


def group_matters(run: RunConfig, group: str) -> bool:
    """Whether some parameter would train otherwise without a group, in some stage."""
    groups, model = run.optimizer.groups, run.model
    if model.problems() or group not in groups:
        return True  # reported elsewhere
    names = parameter_names(model, range(model.num_layers))
    members = groups_of(names, model, groups)
    if group not in members.values():
        return True  # as above
    others = groups_of(names, model, {name: groups[name] for name in groups if name != group})
    return any(
        settings[members[name]] != settings[others[name]]
        for settings in _by_stage(run)
        for name in names
    )


def _by_stage(run: RunConfig) -> Iterator[dict[str, GroupSettings]]:
    groups = run.optimizer.groups
    return (stage_groups(groups, row.groups) for row in run.schedule.stages.values())
