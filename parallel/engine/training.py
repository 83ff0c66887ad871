"""How every parameter of the whole model trains under one engine: its group, and the steps taken with it before.

No tensors. It is the same on every rank, so ranks of a pipeline agree on it without asking each other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from parallel.engine.groups import NO_GROUP, ORDINARY, GroupSettings


@dataclass(frozen=True)
class StepCounts:
    """Steps that the optimizer has applied to each parameter, without skipped steps.

    most: to every parameter that is not in `others`. others: by name. A parameter with 0 steps has no states.
    """

    most: int = 0
    others: Mapping[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int:
        """Returns the steps of the parameter `name`."""
        return self.others.get(name, self.most)

    @staticmethod
    def by_name(steps: Mapping[str, int]) -> "StepCounts":
        """Returns the counts of these parameters."""
        most = max(steps.values(), default=0)
        return StepCounts(most, {name: count for name, count in steps.items() if count != most})


@dataclass(frozen=True)
class Training:
    """How parameters train.

    groups: the group of each parameter, by name; a parameter that is missing is in `NO_GROUP`. settings: of every
    group when the engine is built; which groups are frozen stays as long as the engine. steps: taken before.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, GroupSettings] = field(default_factory=lambda: {NO_GROUP: ORDINARY})
    steps: StepCounts = StepCounts()

    def group(self, name: str) -> str:
        """Returns the group of the parameter `name`."""
        return self.groups.get(name, NO_GROUP)

    def is_frozen(self, name: str) -> bool:
        """Returns whether the parameter `name` stays as it is."""
        return self.settings[self.group(name)].frozen

    @property
    def frozen(self) -> frozenset[str]:
        """The parameters of the model that stay as they are."""
        return frozenset(name for name in self.groups if self.is_frozen(name))

    def steps_after(self, names: Iterable[str], before: StepCounts, applied: int) -> StepCounts:
        """Returns the counts of these parameters after `applied` more steps; 0 for frozen ones: they have no states."""
        return StepCounts.by_name(
            {name: 0 if self.is_frozen(name) else before.of(name) + applied for name in names}
        )

    def changes(self, names: Iterable[str]) -> list[str]:
        """Returns what happens to the states of `steps` where parameters are frozen, or train again, one line each."""
        if self.steps.most == 0:
            return []
        names = list(names)
        dropped = [name for name in names if self.is_frozen(name) and self.steps.of(name)]
        fresh = [name for name in names if not self.is_frozen(name) and not self.steps.of(name)]
        lines = []
        if dropped:
            lines.append(f"the optimizer's states of {_listed(dropped)} are dropped: frozen now")
        if fresh:
            lines.append(f"the optimizer's states of {_listed(fresh)} start at zero: trained now")
        return lines


# Every parameter trains, none has been.
ORDINARILY = Training()


def _listed(names: list[str]) -> str:
    some = ", ".join(names[:2])
    count = f"{len(names)} parameter{'s' if len(names) > 1 else ''}"
    return f"{count} ({some}{', ...' if len(names) > 2 else ''})"
