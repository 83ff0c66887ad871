"""YAML groups and command line -> one typed `RunConfig`, or every mistake in them at once.

Hydra composes the groups of `conf/` (experiment=, model=, ...); KEY=VALUE, +KEY=VALUE and ~KEY are then
laid over the result by ourselves, because Hydra stops at the first key it does not know. The whole tree is
checked against the dataclasses of `train/configuration/schema.py`: unknown keys name the nearest known one, types are
pydantic's job. The only import of hydra and omegaconf.

A configuration is data and means the same on every rank: no YAML tag makes an object, no key names a
function, and the one interpolation there is refers to another key. No `${oc.env:...}`, no clock.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from data.printable import one_line
from train.configuration.imported_model import MARK, imported_model
from train.configuration.schema import RunConfig

CONF = Path(__file__).resolve().parents[2] / "conf"
# Of an argument or of a value: far beyond what anybody writes, and short enough to be parsed in a moment.
MOST_CHARACTERS = 4096
LARGEST_INTEGER = 2**63 - 1
# What comes out of Hydra over an argument, with numbers and nestings without end; and over a file of conf/.
_UNPARSABLE = (HydraException, ValueError, RecursionError)
_UNREADABLE = (*_UNPARSABLE, OmegaConfBaseException, yaml.YAMLError, OSError)
_SCHEMA = TypeAdapter(RunConfig)
_REFERENCE = re.compile(r"(?<!\\)\$\{[\w.]+\}")


class ConfigMistakes(ValueError):
    """All mistakes found in a configuration, one line each.

    `rest` is the run without the wrong arguments, where it still has a meaning: rules between values
    can be checked on it, so that their violations are reported in the same breath.
    """

    def __init__(self, mistakes: Sequence[str], rest: RunConfig | None = None) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)
        self.rest = rest


def compose_run(arguments: Sequence[str]) -> RunConfig:
    """The run that `arguments` (KEY=VALUE, group=name) describe.

    Raises:
        ConfigMistakes: one or more arguments or YAML values are wrong; carries every one of them.
    """
    mistakes: list[str] = []
    choices: list[str] = []
    changes: list[Override] = []
    for override in _parse(arguments, mistakes):
        if override.key_or_group not in groups():
            changes.append(override)
        elif mistake := _choice_mistake(override):
            mistakes.append(f"{one_line(override.input_line or '')}: {mistake}")
        else:
            choices.append(f"{override.key_or_group}={override.value()}")
    tree = _compose(choices, mistakes)
    means_something = not mistakes
    of_model = [change for change in changes if change.key_or_group.startswith("model.")]
    _change_all(tree, [change for change in changes if change not in of_model], mistakes)
    if found := _take_imported_model(tree, choices):
        means_something = False
        mistakes += found
    else:
        _change_all(tree, of_model, mistakes)
    if not mistakes:
        return typed(tree)
    rest = None
    if means_something:
        try:
            rest = typed(tree)
        except ConfigMistakes as more:
            mistakes += more.mistakes
    raise ConfigMistakes(mistakes, rest)


def typed(tree: Any) -> RunConfig:
    """The dataclasses of a composed tree. Raises ConfigMistakes with every unknown key and wrong type."""
    strange = list(_strange_values(OmegaConf.to_container(tree, resolve=False)))
    if strange:
        raise ConfigMistakes(strange)
    try:
        plain: Any = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        line = f"{error.full_key}: {_words(error)}; give a value, or another key that there is"
        raise ConfigMistakes([line]) from error
    if type(plain.get("run_name")) is int:  # a job's number is a good name
        plain["run_name"] = str(plain["run_name"])
    unknown = [
        f"{key}: {mistake}" for key in _leaves(plain) if (mistake := key_mistake(key, plain))
    ]
    if unknown:
        raise ConfigMistakes(unknown)
    try:
        return _SCHEMA.validate_python(plain)
    except ValidationError as error:
        raise ConfigMistakes([_type_mistake(detail) for detail in error.errors()]) from error


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key written out."""
    text: str = OmegaConf.to_yaml(dataclasses.asdict(config))
    return text


def from_yaml(text: str) -> RunConfig:
    """The inverse of `to_yaml`.

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


def known_keys() -> list[str]:
    """Every key of the schema; entries of mappings stand as NAME."""
    return list(_schema_keys(RunConfig, ""))


def key_mistake(key: str, tree: Any) -> str | None:
    """What is wrong with `key`, or None if the schema has it (`tree` says which stages there are)."""
    at: Any = RunConfig
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if dataclasses.is_dataclass(at):
            fields = typing.get_type_hints(at)
            if part not in fields:
                return f"unknown key{_nearest(key, depth, tree)}"
            at = fields[part]
        elif typing.get_origin(at) is dict:
            at = typing.get_args(at)[1]
            present = _children(tree, parts[:depth])
            if dataclasses.is_dataclass(at) and part not in present and _needs_values(at):
                return f"there is no {part} in {'.'.join(parts[:depth])}{_near(part, present)}"
        elif at is Any:
            return None
        else:
            return f"{'.'.join(parts[:depth])} is a single value and has no key {part}"
    return None


def _needs_values(schema: Any) -> bool:
    """Whether an entry of this kind cannot be made by naming one of its fields."""
    missing = dataclasses.MISSING
    return any(
        field.default is missing and field.default_factory is missing
        for field in dataclasses.fields(schema)
    )


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


def _take_imported_model(tree: Any, choices: list[str]) -> list[str]:
    """Put the model of the checkpoint that `model.from_checkpoint` names in its place; or why that cannot be."""
    if not isinstance(tree.get("model"), Mapping) or MARK not in tree.model:
        return []
    try:
        named = OmegaConf.select(tree, tree.model[MARK], default="auto")
        model, start = imported_model(str(named))
    except (ValueError, OmegaConfBaseException) as error:
        return [f"model=from_huggingface: {one_line(str(error))}"]
    OmegaConf.update(tree, "model", model, merge=False, force_add=True)
    for key, value in start.items():
        OmegaConf.update(tree, f"schedule.{key}", value, force_add=True)
    return [
        f"{choice}: has no effect with model=from_huggingface; give model.KEY=VALUE for what is to change"
        for choice in choices
        if choice.startswith("recipe=")
    ]


def _change_all(tree: Any, changes: Sequence[Override], mistakes: list[str]) -> None:
    for override in changes:
        try:
            mistake = _change(tree, override)
        except (OmegaConfBaseException, RecursionError) as error:
            mistake = f"cannot be set ({_words(error)}); give a value such as --print shows"
        if mistake:
            mistakes.append(f"{one_line(override.input_line or '')}: {mistake}")


def _change(tree: Any, override: Override) -> str | None:
    """Lay KEY=VALUE, +KEY=VALUE or ~KEY over `tree`; or what is wrong with it, and nothing is changed."""
    key = override.key_or_group
    *path, name = key.split(".")
    present = name in _children(tree, path)
    if override.package is not None:
        return "only a group has a package; write KEY=VALUE"
    if override.is_sweep_override():
        return "give one value; a list is written [1,2]"
    if override.is_delete():
        if not present:
            return f"there is none to remove{_near(name, _children(tree, path))}"
        holder = OmegaConf.select(tree, ".".join(path)) if path else tree
        del holder[name]
        return None
    value = override.value()
    if override.is_add() and present and not isinstance(value, dict):
        return "is there already; write it without the plus sign"
    if not override.is_add() and (mistake := key_mistake(key, tree)):
        return mistake
    both_are_mappings = isinstance(value, dict) and bool(_children(tree, key.split(".")))
    OmegaConf.update(tree, key, value, merge=both_are_mappings, force_add=True)
    return None


def _words(error: Exception) -> str:
    """What an error of another package says, in one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or refers to itself"
    says = (str(error).strip() or str(error.__cause__)).partition("full_key:")[0]
    return one_line(" ".join(says.split()))


def _is_name(name: Any) -> bool:
    """Whether KEY=VALUE could name it. (YAML has numbers, dates and nothing at all for keys.)"""
    return isinstance(name, str) and name != "" and name.isprintable() and "." not in name


def _strange_values(value: Any, key: str = "") -> Iterator[str]:
    """What no value of a configuration may be, whatever its key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if _is_name(name):
                yield from _strange_values(inner, f"{key}.{name}" if key else name)
            else:
                where = key or "the configuration"
                yield f"{where}: {one_line(repr(name))} is no name; use letters, digits, _ and -"
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strange_values(inner, f"{key}.{index}")
    elif isinstance(value, str):
        if not value.isprintable():
            yield f"{key}={one_line(value)}: holds a character that cannot be printed; leave it out"
        elif len(value) > MOST_CHARACTERS:
            yield f"{key}={one_line(value)}: longer than {MOST_CHARACTERS} characters; shorten it"
        elif "${" in _REFERENCE.sub("", value, count=1):
            yield f"{key}={value}: only another key can be referred to, as ${{seed}}; write the value itself"
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        yield f"{key}: a number of {value.bit_length()} bits; give one below 2^63"


def _choice_mistake(override: Override) -> str | None:
    group, chosen = override.key_or_group, override.value()
    known = groups()[group]
    if override.type != OverrideType.CHANGE or override.package is not None:
        return f"a group has one choice; write {group}=CHOICE, there are {', '.join(known)}"
    if chosen in known:
        return None
    return f"no such {group}{_near(str(chosen), known)}; there are {', '.join(known)}"


def _type_mistake(detail: Any) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{key}: must be given; it has no default"
    says = detail["msg"].removeprefix("Input ")
    return f"{key}={detail['input']}: {says}"


def _nearest(key: str, depth: int, tree: Any) -> str:
    known = [name for template in known_keys() for name in _filled(template, tree)]
    tail = key.split(".")[-1]
    near = get_close_matches(key, known, n=1, cutoff=0.75) or sorted(
        (name for name in known if name.split(".")[-1] == tail), key=len
    )
    near = near or get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:
        near = [name for name in known if tail in name.split(".")[-1]]
    if near:
        return f"; did you mean {near[0]}?"
    return "; python -m train --help lists them" if depth == 0 else ""


def _filled(template: str, tree: Any) -> list[str]:
    if "NAME" not in template:
        return [template]
    head, _, rest = template.partition("NAME")
    return [f"{head}{name}{rest}" for name in _children(tree, head.strip(".").split("."))]


def _near(name: str, known: Any) -> str:
    match = get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"; did you mean {match[0]}?" if match else ""


def _children(tree: Any, path: Sequence[str]) -> list[str]:
    for part in path:
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return list(tree) if isinstance(tree, Mapping) else []


def _leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and not _is_free_form(key):
            yield from _leaves(value, f"{key}.")
        else:
            yield key


def _is_free_form(key: str) -> bool:
    """A stage's policies are mappings that train/schedule/stages.py reads, not parts of the schema."""
    parts = key.split(".")
    return parts[:2] == ["schedule", "stages"] and parts[3:] in (["rope_base"], ["learning_rate"])


def _schema_keys(schema: Any, prefix: str) -> Iterator[str]:
    for name, annotation in typing.get_type_hints(schema).items():
        key = f"{prefix}{name}"
        if dataclasses.is_dataclass(annotation):
            yield key
            yield from _schema_keys(annotation, f"{key}.")
        elif typing.get_origin(annotation) is dict and dataclasses.is_dataclass(
            inner := typing.get_args(annotation)[1]
        ):
            yield from _schema_keys(inner, f"{key}.NAME.")
        else:
            yield key
