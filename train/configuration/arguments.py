"""KEY=VALUE and GROUP=CHOICE of a command line -> overrides, by Hydra's grammar, except for paths.

A path is taken as it is written, whatever characters it has, unless it stands in quotes. Hydra's own settings
(`hydra.run.dir=...`) give a message with the alternative.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString

from data.printable import one_line
from train.configuration.groups import is_file_choice
from train.configuration.keys import known_keys
from train.configuration.library_errors import UNPARSABLE
from train.configuration.other_names import meaning_of
from train.configuration.paths import is_path

# Longest argument: far above any real one, and short enough to be parsed quickly.
MOST_CHARACTERS = 4096
_KEY_AND_VALUE = re.compile(r"(\+\+|\+|)([^=@~+]+)=(.*)", re.DOTALL)
_HYDRA = re.compile(r"[+~]*hydra(?=[./@=]|$)")
# The alternative to a setting of Hydra, by the beginning of its key.
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "hydra.run": "a run writes into paths.outputs/run_name; give paths.outputs=DIR run_name=NAME",
        "hydra.output_subdir": "config.yaml stands in paths.outputs/run_name; give paths.outputs=DIR run_name=NAME",
        "hydra.job": "run_name=NAME names a run, and no command changes the current folder",
        "hydra.searchpath": "give --config-dir DIR, or the path of a file as GROUP=FILE.yaml",
        "hydra.sweep": "one command is one run; write a loop in the shell",
        "hydra/sweeper": "one command is one run; write a loop in the shell",
        "hydra/launcher": "start ranks with torchrun or launch/slurm.sh",
        "hydra.launcher": "start ranks with torchrun or launch/slurm.sh",
        "hydra.verbose": "a run writes log.txt and ranks/ into its folder",
        "hydra/job_logging": "a run writes log.txt and ranks/ into its folder",
        "hydra/hydra_logging": "a run writes log.txt and ranks/ into its folder",
    }
)


@dataclass
class Arguments:
    """The parsed arguments of a command line.

    choices: the text of each group's choice. changes: KEY=VALUE, +KEY=VALUE and ~KEY, in order. serious: mistakes
    that prevent any check of the whole run.
    """

    choices: dict[str, str] = field(default_factory=dict)
    changes: list[Override] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)
    serious: list[str] = field(default_factory=list)


def parse_arguments(arguments: Sequence[str], groups: Collection[str]) -> Arguments:
    """Separates arguments into choices of `groups` and changes of values, and collects every mistake."""
    found = Arguments()
    for argument in arguments:
        override, mistake = _parse(argument, groups)
        if override is None:
            found.mistakes.append(f"{one_line(argument)}: {mistake}")
        elif override.key_or_group not in groups:
            found.changes.append(override)
        elif mistake := _choice_mistake(override):
            found.serious.append(f"{one_line(argument)}: {mistake}")
        else:
            value = override.value()
            text = value if isinstance(value, str) else argument.partition("=")[2]
            found.choices[override.key_or_group] = text
    return found


def _parse(argument: str, groups: Collection[str]) -> tuple[Override | None, str]:
    """Returns an argument as an override of Hydra, or None and why it is none."""
    if len(argument) > MOST_CHARACTERS:
        return (
            None,
            f"longer than {MOST_CHARACTERS} characters; write it into a file, as GROUP=FILE.yaml",
        )
    if _HYDRA.match(argument):
        return None, f"Hydra's own settings have no effect here; {_instead(argument)}"
    match = _KEY_AND_VALUE.fullmatch(argument)
    text = argument
    if match and _is_literal(match.group(2), match.group(3), groups):
        value = QuotedString(match.group(3), Quote.double).with_quotes()
        text = f"{match.group(1)}{match.group(2)}={value}"
    try:
        override = OverridesParser.create().parse_override(text)
    except UNPARSABLE:
        return None, _why_unparsable(argument, match)
    override.input_line = argument
    return override, ""


def _is_literal(key: str, value: str, groups: Collection[str]) -> bool:
    """Whether the value is a path, which is taken as it is written."""
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if in_quotes or value == "null":
        return False
    return is_file_choice(value) if key in groups else is_path(key)


def _why_unparsable(argument: str, match: re.Match[str] | None) -> str:
    if meaning := argument if argument in known_keys() else meaning_of(argument):
        return f"has no value; {meaning if ' ' in meaning else f'write {meaning}=VALUE'}"
    if match and re.fullmatch(r"[\w.\-/]+", match.group(2)):
        return (
            "this value cannot be read; put text with other characters than letters, digits and -_./ into quotes, "
            f"""for example '{match.group(2)}="a=b, c"' (the outer quotes are for the shell)"""
        )
    return "not an argument; write KEY=VALUE, for example train.max_steps=10"


def _instead(argument: str) -> str:
    key = argument.lstrip("+~")
    return next(
        (says for start, says in _INSTEAD.items() if key.startswith(start)),
        "ropewalk train --help lists all keys",
    )


def _choice_mistake(override: Override) -> str:
    """Returns why this argument cannot choose a file of a group; "" if it can."""
    group = override.key_or_group
    allowed = (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD)
    if override.is_sweep_override():
        return f"one command is one run; write {group}=CHOICE, and a loop in the shell for several"
    if override.type not in allowed or override.package is not None:
        return f"a group has one choice and no package; write {group}=CHOICE"
    if not isinstance(override.value(), str | int | float):
        return f"is no name; write {group}=NAME or {group}=FILE.yaml"
    return ""
