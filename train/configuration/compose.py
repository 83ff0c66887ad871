"""Files and command line -> one typed `RunConfig`, or every mistake in them at once.

    groups.py       finds the chosen files, which yaml_file.py reads
    composition.py  composes them by Hydra                            -> one tree
    arguments.py    parses KEY=VALUE, +KEY=VALUE, ~KEY; changes.py applies them
    plain_values.py replaces references to other keys
    typed.py        checks against the dataclasses of the schema      -> RunConfig
    paths.py        makes relative paths absolute

A configuration is data and the same on every rank: no YAML tag makes an object, no key names a function, and the
only interpolation is a reference to another key. No `${oc.env:...}`, no clock.
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

# Keys that `model=from_huggingface` sets; the command line's values win over it.
_IMPORTED = ("model.", "schedule.start_base", "schedule.start_length")
_CHECKPOINT = path_mark(hint_at(["checkpoint", "resume"])) or PathMark()


class ConfigMistakes(ValueError):
    """All mistakes found in a configuration, one line each.

    rest: the run with wrong values replaced, on which the rules between values are checked too; None if that is not
    possible. wrong: the keys whose values were replaced.
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
        """Pickles the arguments of `__init__`, not the text."""
        return ConfigMistakes, (self.mistakes, self.rest, self.wrong)


@dataclasses.dataclass(frozen=True)
class Composed:
    """The result of composing a command line.

    config: the run, with wrong values replaced; None if that is not possible. wrong: the keys whose values were
    replaced. origins: the place of each value in the user's own files.
    """

    config: RunConfig | None
    mistakes: list[str]
    wrong: frozenset[str]
    origins: Origins


def compose_run(arguments: Sequence[str], config_dir: str = "") -> RunConfig:
    """Returns the run that `arguments` (KEY=VALUE, group=name) describe. config_dir: the value of --config-dir.

    Raises:
        ConfigMistakes: arguments or YAML values are wrong or have no effect; holds all mistakes.
    """
    found = compose_all(arguments, config_dir)
    if found.mistakes or found.config is None:
        raise ConfigMistakes(found.mistakes, found.config, found.wrong)
    return found.config


def compose_all(arguments: Sequence[str], config_dir: str = "") -> Composed:
    """Returns the run that `arguments` describe, with wrong values replaced, and every mistake."""
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
    of_model = [change for change in given.changes if change.key_or_group.startswith(_IMPORTED)]
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
    """Returns the files that the command line chooses; adds wrong choices to `given.serious`."""
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
    """Returns the tree of these choices and its files; the tree of the defaults if the choices cannot be composed."""
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
    """Returns the run of a tree and every mistake in it; values in `instead` replace wrong ones."""
    config, mistakes = read(RunConfig, values.content, instead=instead)
    found = values.found | mistakes
    # A reference to a wrong key is not reported again.
    return config, {
        key: line for key, line in found.items() if values.references.get(key) not in found
    }


def _changed_keys(values: PlainValues, stood: Any) -> list[str]:
    """Returns the keys whose values the command line changes. stood: the values without it."""
    there, before = dict(flat(values.content)), dict(flat(stood))
    return [key for key, value in there.items() if key not in before or before[key] != value]


def _idle_in_files(stood: PlainValues, files: Sequence[GroupFile]) -> list[str]:
    """Returns settings of experiments and own files without effect, unless only the command line makes them so.

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
    """Returns the typed values of these keys, except references to other keys."""
    there, of_type = dict(flat(values.content)), dict(flat(dataclasses.asdict(config)))
    return {key: of_type.get(key, there[key]) for key in keys if key not in values.references}


def _take_imported_model(
    trees: tuple[Any, Any], choices: Mapping[str, GroupFile], start: Path
) -> list[str]:
    """Puts the model of the checkpoint that `model.from_checkpoint` names into both trees; returns the mistakes."""
    tree, _ = trees
    if not isinstance(tree.get("model"), Mapping) or MARK not in tree.model:
        return []
    model: dict[str, Any] = {}
    first: dict[str, Any] = {}
    found = []
    if recipe := choices.get("recipe"):
        found.append(
            f"{recipe.given}: has no effect with model=from_huggingface; give model.KEY=VALUE for each change"
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
    """Returns the dataclasses of a composed tree. Raises ConfigMistakes with every unknown key and wrong value."""
    config, mistakes = _read(PlainValues(tree))
    if mistakes or config is None:
        raise ConfigMistakes(list(mistakes.values()), config, mistakes)
    return config


def to_yaml(config: RunConfig) -> str:
    """Returns the resolved configuration as YAML with every key."""
    text: str = OmegaConf.to_yaml(dataclasses.asdict(config))
    return text


def from_yaml(text: str) -> RunConfig:
    """Inverse of `to_yaml`; keys may have the names of an earlier version.

    Raises:
        ConfigMistakes: the text is no configuration of this version or an earlier one.
    """
    try:
        return typed(OmegaConf.create(text))
    except UNCOMPOSABLE as error:
        if isinstance(error, ConfigMistakes):
            raise
        raise ConfigMistakes([words_of(error)]) from error
