"""Parameter groups: which parameters train differently, and how. Pure functions of names, no tensors.

    optimizer.groups:                         every parameter is in the LAST group that it matches
      rest: {frozen: true}                    all parameters
      long: {kinds: [full_nope]}              but those of the full layers, which train as without groups
      ends: {parameters: [embedding.weight, norm.weight], learning_rate_factor: 0.1}

A parameter that matches no group is in `NO_GROUP`. Patterns are those of shell file names (`fnmatch`). One that matches
the name of a parameter outside the layers is for whole names: `norm.weight` is the final norm, `layers.*.norm.weight`
are norms of layers. Any other may also match the name inside a layer: `attention.*`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from model.parameters import EMBEDDING, HEAD, parameter_names, role_of
from parallel.config import ParameterGroup

# The group of parameters that match none.
NO_GROUP = ""
WITHOUT_DECAY = "has no effect where no parameter of the group has weight decay; drop it"


@dataclass(frozen=True)
class GroupSettings:
    """How the parameters of a group train in one stage.

    learning_rate_factor, weight_decay_factor: multiply those of parameters without a group. frozen: they do not train.
    """

    learning_rate_factor: float = 1.0
    weight_decay_factor: float = 1.0
    frozen: bool = False


ORDINARY = GroupSettings()


def settings_of(group: ParameterGroup) -> GroupSettings:
    """Returns how a group trains in stages that change nothing in it."""
    return GroupSettings(group.learning_rate_factor, group.weight_decay_factor, group.frozen)


def groups_of(
    names: Iterable[str], model: ModelConfig, groups: Mapping[str, ParameterGroup]
) -> dict[str, str]:
    """Returns the group of each parameter, `NO_GROUP` if it matches none.

    names: of parameters in the Transformer. A head that is tied to the embedding has the embedding's name.
    """
    if not groups:
        return dict.fromkeys(names, NO_GROUP)
    kinds = [spec.kind for spec in expand_pattern(model)]
    backwards = list(groups.items())[::-1]
    found = {}
    for name in names:
        layer = name.split(".", 2)[1] if name.startswith("layers.") else ""
        kind = kinds[int(layer)] if layer else ""
        found[name] = next(
            (group for group, one in backwards if _matches(one, name, kind)), NO_GROUP
        )
    return found


def frozen_parameters(
    model: ModelConfig,
    groups: Mapping[str, ParameterGroup],
    settings: Mapping[str, GroupSettings],
) -> list[str]:
    """Returns the parameters that do not train. settings: by name of the group."""
    if not any(one.frozen for one in settings.values()):
        return []
    names = parameter_names(model, range(model.num_layers))
    return [
        name for name, group in groups_of(names, model, groups).items() if settings[group].frozen
    ]


def group_problems(model: ModelConfig, groups: Mapping[str, ParameterGroup]) -> list[str]:
    """Returns every rule that the groups break, one line each. model: without problems of its own."""
    found = []
    names = parameter_names(model, range(model.num_layers))
    members = set(groups_of(names, model, groups).values())
    decayed = decayed_groups(model, groups)
    kinds = list(dict.fromkeys(spec.kind for spec in expand_pattern(model)))
    for group, one in groups.items():
        key = f"optimizer.groups.{group}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", group):
            found.append(f"{key}: a group's name is made of letters, digits, _ and -; use another")
            continue
        unknown = [
            f"{key}.kinds={pattern}: matches no kind of layer of this model; there are {', '.join(kinds)}"
            for pattern in one.kinds
            if not any(fnmatchcase(kind, pattern) for kind in kinds)
        ]
        unknown += [
            f"{key}.parameters={pattern}: matches no parameter of this model; "
            + _instead(pattern, names)
            for pattern in one.parameters
            if not any(_is_named(name, pattern) for name in names)
        ]
        if not unknown and group not in members:
            unknown.append(f"{key}: has no parameter, or later groups take all of them; drop it")
        elif not unknown and one.weight_decay_factor != 1.0 and group not in decayed:
            unknown.append(f"{key}.weight_decay_factor: {WITHOUT_DECAY}")
        found += unknown
    return found


def decayed_groups(model: ModelConfig, groups: Mapping[str, ParameterGroup]) -> set[str]:
    """Returns the groups with a parameter that has weight decay."""
    names = parameter_names(model, range(model.num_layers))
    return {
        group for name, group in groups_of(names, model, groups).items() if role_of(name).decays
    }


def _matches(group: ParameterGroup, name: str, kind: str) -> bool:
    if group.kinds and not any(fnmatchcase(kind, pattern) for pattern in group.kinds):
        return False
    return any(_is_named(name, pattern) for pattern in group.parameters)


def _is_named(name: str, pattern: str) -> bool:
    """Whether a pattern matches the name of a parameter, or what is inside a layer in it."""
    outside = any(fnmatchcase(end, pattern) for end in (*EMBEDDING, *HEAD))
    return fnmatchcase(name, pattern) or (not outside and fnmatchcase(_inside(name), pattern))


def _inside(name: str) -> str:
    return name.split(".", 2)[-1] if name.startswith("layers.") else name


def _instead(pattern: str, names: list[str]) -> str:
    """What to give for a pattern that matches nothing: the four most similar names of the ends and of a layer."""
    if any(fnmatchcase(end, pattern) for end in HEAD):
        return "the head is the embedding (model.tie_embeddings=true); give embedding.weight"
    inside = {_inside(name): None for name in names}
    return f"there are {', '.join(get_close_matches(pattern, inside, n=4, cutoff=0.0))}, ..."
