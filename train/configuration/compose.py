"""YAML groups and command line -> one typed `RunConfig`, or every mistake in them at once.

Hydra composes the groups of `conf/` (experiment=, model=, ...); KEY=VALUE, +KEY=VALUE and ~KEY are then
laid over the result by ourselves, because Hydra stops at the first key it does not know. The whole tree is
then read by `train/configuration/typed.py`, which checks it against the dataclasses of the schema. The only import of
hydra and omegaconf.

A configuration is data and means the same on every rank: no YAML tag makes an object, no key names a
function, and the one interpolation there is refers to another key. No `${oc.env:...}`, no clock.
"""

import copy
import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.printable import one_line
from train.configuration.idle import flat, idle_settings
from train.configuration.imported_model import MARK, imported_model
from train.configuration.keys import children, field_at, key_mistake
from train.configuration.nearest import did_you_mean
from train.configuration.renamed_keys import renamed_model
from train.configuration.resolved import resolved
from train.configuration.schema import RunConfig
from train.configuration.typed import WRONG, Mistakes, default_of, plain, read, still_judged

CONF = Path(__file__).resolve().parents[2] / "conf"
# Of an argument or of a value: far beyond what anybody writes, and short enough to be parsed in a moment.
MOST_CHARACTERS = 4096
LARGEST_INTEGER = 2**63 - 1
# What comes out of Hydra over an argument, with numbers and nestings without end; and over a file of conf/.
_UNPARSABLE = (HydraException, ValueError, RecursionError)
_UNREADABLE = (*_UNPARSABLE, OmegaConfBaseException, yaml.YAMLError, OSError)
_REFERENCE = re.compile(r"(?<!\\)\$\{([\w.]+)\}")


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


def compose_run(arguments: Sequence[str]) -> RunConfig:
    """The run that `arguments` (KEY=VALUE, group=name) describe.

    Raises:
        ConfigMistakes: arguments or YAML values are wrong or have no effect; carries every one of them.
    """
    mistakes: list[str] = []
    # Without what these are about, nothing can be said of the whole run.
    serious: list[str] = []
    choices: list[str] = []
    changes: list[Override] = []
    for override in _parse(arguments, mistakes):
        if override.key_or_group not in groups():
            changes.append(override)
        elif mistake := _choice_mistake(override):
            serious.append(f"{one_line(override.input_line or '')}: {mistake}")
        else:
            choices.append(f"{override.key_or_group}={override.value()}")
    tree = _compose(choices, serious)
    before = copy.deepcopy(tree)
    of_model = [change for change in changes if change.key_or_group.startswith("model.")]
    _change_all(tree, [change for change in changes if change not in of_model], mistakes)
    serious += _take_imported_model((tree, before), choices)
    _change_all(tree, of_model, mistakes)
    values, stood = _Resolver(tree), _Resolver(before)
    config, found = _read(values, stood.content)
    if config is not None and not serious:
        idle = idle_settings(config, _given(config, values, stood.content))
        idle += _idle_in_experiment(stood, choices)
        mistakes += still_judged(list(dict.fromkeys(idle)), found)
    if mistakes := [*serious, *mistakes, *found.values()]:
        rest = None if serious or config is None else resolved(config)
        raise ConfigMistakes(mistakes, rest, found)
    assert config is not None
    return resolved(config)


def _given(config: RunConfig, values: "_Resolver", stood: Any) -> dict[str, Any]:
    """The values, by key, that the command line changes. stood: what stands there without it."""
    there, before = dict(flat(values.content)), dict(flat(stood))
    chosen = [key for key, value in there.items() if key not in before or before[key] != value]
    return _typed_values(config, values, chosen)


def _idle_in_experiment(stood: "_Resolver", choices: Sequence[str]) -> list[str]:
    """What an experiment's file sets without effect. What only the command line makes idle is nobody's mistake.

    stood: the run without the command line's values.
    """
    names = [
        name for group, _, name in (c.partition("=") for c in choices) if group == "experiment"
    ]
    config, wrong = _read(stood) if names else (None, {})
    if config is None or wrong:
        return []
    there = dict(flat(stood.content))
    text = (CONF / "experiment" / f"{names[-1]}.yaml").read_text()
    chosen = [key for key, _ in flat(yaml.safe_load(text) or {}) if key in there]
    return idle_settings(config, _typed_values(config, stood, chosen))


def _typed_values(config: RunConfig, values: "_Resolver", keys: Sequence[str]) -> dict[str, Any]:
    """The values of these keys as the configuration has them, but for references to other keys."""
    there, of_type = dict(flat(values.content)), dict(flat(dataclasses.asdict(config)))
    return {key: of_type.get(key, there[key]) for key in keys if key not in values.references}


def typed(tree: Any) -> RunConfig:
    """The dataclasses of a composed tree. Raises ConfigMistakes with every unknown key and wrong value."""
    config, mistakes = _read(_Resolver(tree))
    if mistakes or config is None:
        raise ConfigMistakes(list(mistakes.values()), config, mistakes)
    return config


def _read(values: "_Resolver", instead: Any = None) -> tuple[RunConfig | None, Mistakes]:
    """The run of a tree and every mistake in it; what stands in `instead` replaces wrong values."""
    config, mistakes = read(RunConfig, values.content, instead=instead)
    found = values.found | mistakes
    # A reference to a key that is wrong is not another mistake.
    return config, {
        key: line for key, line in found.items() if values.references.get(key) not in found
    }


class _Resolver:
    """The plain values of a tree: `content`, with references replaced and `WRONG` for what no value may be.

    found: why a value is wrong. references: the key that a value refers to.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self.found: Mistakes = {}
        self.references: dict[str, str] = {}
        content: Any = OmegaConf.to_container(tree, resolve=False)
        if type(content.get("run_name")) is int:  # a job's number is a good name
            content["run_name"] = str(content["run_name"])
        if isinstance(content.get("model"), dict):
            content["model"] = renamed_model(content["model"])
        self.content = self._value(content, "")

    def _value(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return self._mapping(value, key)
        if isinstance(value, list):
            return [self._value(inner, f"{key}.{index}") for index, inner in enumerate(value)]
        wrong = _strange(value, key)
        if not wrong and isinstance(value, str) and (reference := _REFERENCE.search(value)):
            self.references[key] = reference.group(1)
            try:
                return OmegaConf.select(self._tree, key, throw_on_missing=True)
            except (OmegaConfBaseException, RecursionError) as error:
                wrong = f"{key}: {_words(error)}; give a value, or another key that there is"
        if wrong:
            self.found[key] = wrong
        return WRONG if wrong else value

    def _mapping(self, values: dict[Any, Any], key: str) -> Any:
        for name in values:
            if not _is_name(name):
                where = key or "the configuration"
                self.found[where] = (
                    f"{where}: {one_line(repr(name))} is no name; use letters, digits, _ and -"
                )
                return WRONG
        return {
            name: self._value(inner, f"{key}.{name}" if key else name)
            for name, inner in values.items()
        }


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
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigMistakes([_words(error)]) from error


def groups() -> dict[str, list[str]]:
    """Config groups and their choices, as `conf/` has them."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }


def _parse(arguments: Sequence[str], mistakes: list[str]) -> list[Override]:
    parsed = []
    for argument in arguments:
        if len(argument) > MOST_CHARACTERS:
            mistakes.append(
                f"{one_line(argument)}: longer than {MOST_CHARACTERS} characters; write it into a file of conf/"
            )
            continue
        try:
            parsed.append(OverridesParser.create().parse_override(argument))
        except _UNPARSABLE:
            mistakes.append(
                f"{one_line(argument)}: not an argument; write KEY=VALUE, for example train.max_steps=10"
            )
    return parsed


def _compose(choices: list[str], mistakes: list[str]) -> Any:
    """The tree of these choices; where they cannot be composed, that of the defaults, and why not."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for resolver in ("oc.env", "now"):  # nor may they choose a group
            OmegaConf.clear_resolver(resolver)
        try:
            tree = compose("config", overrides=choices)
        except _UNREADABLE as error:
            # A file of conf/ that is no YAML, asks for an object, names a file that is not there, or itself.
            asked = " ".join(choices) or "conf/config.yaml"
            mistakes.append(f"{asked}: {_words(error)}; mend the file in conf/")
            tree = None
    if tree is None:
        if not choices:
            raise ConfigMistakes(mistakes)
        return _compose([], mistakes)
    OmegaConf.set_struct(tree, False)
    return tree


def _take_imported_model(trees: tuple[Any, Any], choices: list[str]) -> list[str]:
    """Put the model of the checkpoint that `model.from_checkpoint` names into both trees; or why that cannot be."""
    tree, _ = trees
    if not isinstance(tree.get("model"), Mapping) or MARK not in tree.model:
        return []
    model: dict[str, Any] = {}
    start: dict[str, Any] = {}
    found = [
        f"{choice}: has no effect with model=from_huggingface; give model.KEY=VALUE for what is to change"
        for choice in choices
        if choice.startswith("recipe=")
    ]
    try:
        named = OmegaConf.select(tree, tree.model[MARK], default="auto")
        model, start = imported_model(str(named))
    except (ValueError, OmegaConfBaseException) as error:
        found = [f"model=from_huggingface: {one_line(str(error))}"]
    for changed in trees:
        OmegaConf.update(changed, "model", model, merge=False, force_add=True)
        for key, value in start.items():
            OmegaConf.update(changed, f"schedule.{key}", value, force_add=True)
    return found


def _change_all(tree: Any, changes: Sequence[Override], mistakes: list[str]) -> None:
    for override in changes:
        try:
            mistake = _change(tree, override)
        except (OmegaConfBaseException, RecursionError) as error:
            mistake = f"cannot be set ({_words(error)}); give a value such as --print shows"
        if mistake:
            mistakes.append(f"{one_line(override.input_line or '')}: {mistake}")
    for override in changes:
        if override.is_delete():
            _give_default(tree, override.key_or_group)


def _change(tree: Any, override: Override) -> str | None:
    """Lay KEY=VALUE, +KEY=VALUE or ~KEY over `tree`; or what is wrong with it, and nothing is changed."""
    key = override.key_or_group
    *path, name = key.split(".")
    present = name in children(tree, path)
    if override.package is not None:
        return "only a group has a package; write KEY=VALUE"
    if override.is_sweep_override():
        return "give one value; a list is written [1,2]"
    if override.is_delete():
        return _remove(tree, path, name)
    value = override.value()
    if override.is_add() and present and not isinstance(value, dict):
        return "is there already; write it without the plus sign"
    if not override.is_add() and (mistake := key_mistake(key, tree)):
        return mistake
    both_are_mappings = isinstance(value, dict) and bool(children(tree, key.split(".")))
    OmegaConf.update(tree, key, value, merge=both_are_mappings, force_add=True)
    return None


def _remove(tree: Any, path: Sequence[str], name: str) -> str | None:
    """Take a key out of its mapping; or why it cannot be."""
    there = children(tree, path)
    if name not in there:
        return f"there is none to remove{did_you_mean(name, there, likeness=0.4)}"
    del (OmegaConf.select(tree, ".".join(path)) if path else tree)[name]
    return None


def _give_default(tree: Any, key: str) -> None:
    """Fill a key that was removed and not given anew, so that references to it hold; an entry stays away."""
    *path, name = key.split(".")
    field, there = field_at([*path, name]), children(tree, path)
    if field is None or not there or name in there:
        return
    default = default_of(field)
    if default is not WRONG:
        OmegaConf.update(tree, key, plain(default), merge=False, force_add=True)


def _words(error: Exception) -> str:
    """What an error of another package says, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or refers to itself"
    says = (str(error).strip() or str(error.__cause__)).partition("full_key:")[0]
    return one_line(" ".join(says.split()))


def _is_name(name: Any) -> bool:
    """Whether KEY=VALUE could name it. (YAML has numbers, dates and nothing at all for keys.)"""
    return isinstance(name, str) and name != "" and name.isprintable() and "." not in name


def _strange(value: Any, key: str) -> str:
    """Why this can be no value of a configuration, whatever its key; "" if it can."""
    if isinstance(value, str):
        if not value.isprintable():
            return (
                f"{key}={one_line(value)}: holds a character that cannot be printed; leave it out"
            )
        if len(value) > MOST_CHARACTERS:
            return f"{key}={one_line(value)}: longer than {MOST_CHARACTERS} characters; shorten it"
        if "${" in _REFERENCE.sub("", value, count=1):
            return f"{key}={value}: only another key can be referred to, as ${{seed}}; write the value itself"
        if value == "???":
            return f"{key}: must be given; it has no default"
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return f"{key}: a number of {value.bit_length()} bits; give one below 2^63"
    return ""


def _choice_mistake(override: Override) -> str | None:
    group, chosen = override.key_or_group, override.value()
    known = groups()[group]
    if override.type != OverrideType.CHANGE or override.package is not None:
        return f"a group has one choice; write {group}=CHOICE, there are {', '.join(known)}"
    if chosen in known:
        return None
    return f"no such {group}{did_you_mean(str(chosen), known, likeness=0.4)}; there are {', '.join(known)}"
