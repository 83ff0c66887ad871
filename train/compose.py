"""YAML groups and command line -> one typed `RunConfig`, or every mistake in them at once.

Hydra composes the groups of `conf/` (experiment=, model=, ...); plain KEY=VALUE overrides are then laid
over the result by ourselves, because Hydra stops at the first key it does not know. The whole tree is
checked against the dataclasses of `train/config.py`: unknown keys name the nearest known one, types are
pydantic's job. The only import of hydra and omegaconf.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from train.config import RunConfig

CONF = Path(__file__).resolve().parent.parent / "conf"


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
    values: list[Override] = []
    for override in _parse(arguments, mistakes):
        if override.key_or_group in groups():
            mistake = _choice_mistake(override)
            if mistake:
                mistakes.append(mistake)
            else:
                choices.append(override.input_line or "")
        elif override.is_add() or override.is_delete():
            choices.append(override.input_line or "")
        else:
            values.append(override)
    tree = _compose(choices, mistakes)
    means_something = not mistakes
    for override in values:
        mistake = key_mistake(override.key_or_group, tree)
        if mistake:
            mistakes.append(f"{override.input_line}: {mistake}")
        elif override.is_sweep_override():
            mistakes.append(f"{override.input_line}: give one value; a list is written [1,2]")
        else:
            OmegaConf.update(tree, override.key_or_group, override.value(), force_add=True)
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
    try:
        plain: Any = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigMistakes([str(error).splitlines()[0]]) from error
    if isinstance(plain.get("run_name"), int):  # a job's number is a good name
        plain["run_name"] = str(plain["run_name"])
    unknown = [
        f"{key}: {mistake}" for key in _leaves(plain) if (mistake := key_mistake(key, plain))
    ]
    if unknown:
        raise ConfigMistakes(unknown)
    try:
        return TypeAdapter(RunConfig).validate_python(plain)
    except ValidationError as error:
        raise ConfigMistakes([_type_mistake(detail) for detail in error.errors()]) from error


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key written out."""
    text: str = OmegaConf.to_yaml(dataclasses.asdict(config))
    return text


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
        try:
            parsed.append(OverridesParser.create().parse_override(argument))
        except HydraException:
            mistakes.append(
                f"{argument}: not an argument; write KEY=VALUE, for example train.max_steps=10"
            )
    return parsed


def _compose(choices: list[str], mistakes: list[str]) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            tree = compose("config", overrides=choices)
        except (HydraException, OmegaConfBaseException) as error:
            mistakes.append(str(error).splitlines()[0])
            tree = compose("config")
    OmegaConf.set_struct(tree, False)
    return tree


def _choice_mistake(override: Override) -> str | None:
    known, chosen = groups()[override.key_or_group], override.value()
    if chosen in known:
        return None
    return (
        f"{override.input_line}: no such {override.key_or_group}{_near(str(chosen), known)}; "
        f"there are {', '.join(known)}"
    )


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
        tree = tree.get(part, {}) if isinstance(tree, Mapping) or hasattr(tree, "get") else {}
    return list(tree or {})


def _leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and not _is_free_form(key):
            yield from _leaves(value, f"{key}.")
        else:
            yield key


def _is_free_form(key: str) -> bool:
    """A stage's policies are mappings that train/schedule.py reads, not parts of the schema."""
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
