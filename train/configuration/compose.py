"""Files and command line -> one typed `RunConfig`, or every mistake in them at once.

    groups.py       which files are chosen, read by yaml_file.py
    composition.py  Hydra puts them together                          -> one tree
    arguments.py    KEY=VALUE, +KEY=VALUE, ~KEY; laid over by changes.py
    plain_values.py references to other keys replaced
    typed.py        checked against the dataclasses of the schema     -> RunConfig
    paths.py        relative paths made absolute

A configuration is data and means the same on every rank: no YAML tag makes an object, no key names a
function, and the one interpolation there is refers to another key. No `${oc.env:...}`, no clock.
"""

import copy
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from data.config import PathMark
from data.printable import one_line
from train.configuration.arguments import Arguments, parse_arguments
from train.configuration.changes import change_all
from train.configuration.composition import composed_tree, tree_of_one
from train.configuration.groups import Gathering, GroupFile, groups, own_folder
from train.configuration.idle import flat, idle_settings
from train.configuration.imported_model import MARK, imported_model
from train.configuration.keys import hint_at
from train.configuration.library_errors import UNCOMPOSABLE, UNUSABLE, words_of
from train.configuration.origins import Origins
from train.configuration.paths import absolute_path, path_mark, start_folder, with_absolute_paths
from train.configuration.plain_values import PlainValues
from train.configuration.resolved import resolved
from train.configuration.schema import RunConfig
from train.configuration.typed import Mistakes, read, still_judged

_CHECKPOINT = path_mark(hint_at(["checkpoint", "resume"])) or PathMark()


class ConfigMistakes(ValueError):
    """All mistakes found in a configuration, one line each.

    `rest` is the run without them, where it still has a meaning: rules between values can be checked on it, so that
    their violations are reported in the same breath. `wrong` are the keys whose values were replaced for that.
    """

    def __init__(
        self,
        mistakes: Sequence[str],
        rest: RunConfig | None = None,
        wrong: Collection[str] = (),
    ) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)
        self.rest = rest
        self.wrong = frozenset(wrong)

    def __reduce__(self) -> tuple[type["ConfigMistakes"], tuple[object, ...]]:
        """How it travels to other ranks: with the arguments of `__init__`, not with its text."""
        return ConfigMistakes, (self.mistakes, self.rest, self.wrong)


@dataclasses.dataclass(frozen=True)
class Composed:
    """What a command line describes.

    config: the run, or what is left of it without its mistakes; None where nothing can be said of it. wrong: the keys
    whose values were replaced for that. origins: which own file says what.
    """

    config: RunConfig | None
    mistakes: list[str]
    wrong: frozenset[str]
    origins: Origins


def compose_run(arguments: Sequence[str], config_dir: str = "") -> RunConfig:
    """The run that `arguments` (KEY=VALUE, group=name) describe. config_dir: what --config-dir says.

    Raises:
        ConfigMistakes: arguments or YAML values are wrong or have no effect; carries every one of them.
    """
    found = compose_all(arguments, config_dir)
    if found.mistakes or found.config is None:
        raise ConfigMistakes(found.mistakes, found.config, found.wrong)
    return found.config


def compose_all(arguments: Sequence[str], config_dir: str = "") -> Composed:
    """The run that `arguments` describe, as far as it can be made out, and every mistake in them."""
    try:
        start = start_folder()
        own = own_folder(config_dir, start)
    except ValueError as error:
        return Composed(None, str(error).splitlines(), frozenset(), Origins())
    given = parse_arguments(arguments, groups(own))
    gathering = Gathering(start, own)
    choices = _choose(gathering, given)
    tree, files = _compose(gathering, choices, given.serious)
    if tree is None:
        return Composed(None, given.serious + given.mistakes, frozenset(), Origins())
    before = copy.deepcopy(tree)
    of_model = [change for change in given.changes if change.key_or_group.startswith("model.")]
    others = [change for change in given.changes if change not in of_model]
    change_all(tree, others, given.mistakes)
    given.serious += _take_imported_model((tree, before), choices, start)
    change_all(tree, of_model, given.mistakes)
    values, stood = PlainValues(tree), PlainValues(before)
    config, found = _read(values, stood.content)
    changed = _changed_keys(values, stood.content)
    idle: list[str] = []
    if config is not None and not given.serious:
        idle = idle_settings(config, _typed_values(config, values, changed))
        idle += _idle_in_files(stood, files)
    if config is not None:
        config = resolved(with_absolute_paths(config, start))
    origins = Origins.of(files, changed)
    in_files = [*still_judged(list(dict.fromkeys(idle)), found), *found.values()]
    mistakes = [*given.serious, *given.mistakes, *(origins.named(line) for line in in_files)]
    return Composed(None if given.serious else config, mistakes, frozenset(found), origins)


def _choose(gathering: Gathering, given: Arguments) -> dict[str, GroupFile]:
    """The files that the command line chooses; what is wrong with a choice is told in `given`."""
    found = {}
    for group, chosen in given.choices.items():
        try:
            found[group] = gathering.choose(group, chosen)
        except ValueError as error:
            given.serious.append(str(error))
    return found


def _compose(
    gathering: Gathering, choices: Mapping[str, GroupFile], mistakes: list[str]
) -> tuple[Any, list[GroupFile]]:
    """The tree of these choices and the files in it; that of the defaults where these choices cannot be composed."""
    try:
        gathering.root()
        if (whole := choices.get("experiment")) and whole.is_whole:
            mistakes += [
                f"{file.given}: has no effect with {whole.given}, which holds every key; give KEY=VALUE instead"
                for group, file in choices.items()
                if group != "experiment"
            ]
            return tree_of_one(whole), [whole]
        return composed_tree(gathering.files, choices)
    except ValueError as error:
        mistakes.append(str(error))
    return _compose(gathering, {}, mistakes) if choices else (None, [])


def _read(values: PlainValues, instead: Any = None) -> tuple[RunConfig | None, Mistakes]:
    """The run of a tree and every mistake in it; what stands in `instead` replaces wrong values."""
    config, mistakes = read(RunConfig, values.content, instead=instead)
    found = values.found | mistakes
    # A reference to a key that is wrong is not another mistake.
    return config, {
        key: line for key, line in found.items() if values.references.get(key) not in found
    }


def _changed_keys(values: PlainValues, stood: Any) -> list[str]:
    """The keys whose values the command line changes. stood: what stands there without it."""
    there, before = dict(flat(values.content)), dict(flat(stood))
    return [key for key, value in there.items() if key not in before or before[key] != value]


def _idle_in_files(stood: PlainValues, files: Sequence[GroupFile]) -> list[str]:
    """What experiments and own files set without effect. What only the command line makes idle is nobody's mistake.

    stood: the run without the command line's values.
    """
    judged = [file for file in files if file.is_own or file.group == "experiment"]
    judged = [file for file in judged if not file.is_whole]
    config, wrong = _read(stood) if judged else (None, {})
    if config is None or wrong:
        return []
    there = dict(flat(stood.content))
    chosen = [
        f"{file.package}.{key}" if file.package else key
        for file in judged
        for key, _ in flat(file.content)
    ]
    return idle_settings(config, _typed_values(config, stood, [k for k in chosen if k in there]))


def _typed_values(config: RunConfig, values: PlainValues, keys: Sequence[str]) -> dict[str, Any]:
    """The values of these keys as the configuration has them, but for references to other keys."""
    there, of_type = dict(flat(values.content)), dict(flat(dataclasses.asdict(config)))
    return {key: of_type.get(key, there[key]) for key in keys if key not in values.references}


def _take_imported_model(
    trees: tuple[Any, Any], choices: Mapping[str, GroupFile], start: Path
) -> list[str]:
    """Put the model of the checkpoint that `model.from_checkpoint` names into both trees; or why that cannot be."""
    tree, _ = trees
    if not isinstance(tree.get("model"), Mapping) or MARK not in tree.model:
        return []
    model: dict[str, Any] = {}
    first: dict[str, Any] = {}
    found = []
    if recipe := choices.get("recipe"):
        found.append(
            f"{recipe.given}: has no effect with model=from_huggingface; give model.KEY=VALUE for what is to change"
        )
    try:
        named = str(OmegaConf.select(tree, tree.model[MARK], default="auto"))
        model, first = imported_model(absolute_path(named, start, _CHECKPOINT))
    except (ValueError, *UNUSABLE) as error:
        found = [f"model=from_huggingface: {one_line(str(error))}"]
    for changed in trees:
        OmegaConf.update(changed, "model", model, merge=False, force_add=True)
        for key, value in first.items():
            OmegaConf.update(changed, f"schedule.{key}", value, force_add=True)
    return found


def typed(tree: Any) -> RunConfig:
    """The dataclasses of a composed tree. Raises ConfigMistakes with every unknown key and wrong value."""
    config, mistakes = _read(PlainValues(tree))
    if mistakes or config is None:
        raise ConfigMistakes(list(mistakes.values()), config, mistakes)
    return config


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key written out."""
    text: str = OmegaConf.to_yaml(dataclasses.asdict(config))
    return text


def from_yaml(text: str) -> RunConfig:
    """The inverse of `to_yaml`; keys may have the names of an earlier version.

    Raises:
        ConfigMistakes: it is of another version.
    """
    try:
        return typed(OmegaConf.create(text))
    except UNCOMPOSABLE as error:
        if isinstance(error, ConfigMistakes):
            raise
        raise ConfigMistakes([words_of(error)]) from error
