"""The options of `python -m train`: our own and Hydra's, which either work as in Hydra or give a message.

ours      --help --print --check --folder --preflight --version --config-dir DIR --shell-completion install=bash
Hydra's   --cfg job (--print), -cd DIR, -sc install=bash; for each other one, a message with the alternative
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from data.printable import one_line
from train.configuration.keys import known_keys
from train.configuration.nearest import did_you_mean
from train.configuration.other_names import meaning_of

FLAGS = ("--help", "--print", "--check", "--folder", "--preflight", "--version")
CONFIG_DIR = "--config-dir"
COMPLETION = "--shell-completion"
_SHORT: Mapping[str, str] = MappingProxyType(
    {
        "-h": "--help",
        "-c": "--cfg",
        "-cd": CONFIG_DIR,
        "-cp": "--config-path",
        "-cn": "--config-name",
        "-sc": COMPLETION,
        "-m": "--multirun",
        "-r": "--run",
        "-p": "--package",
        "-i": "--info",
    }
)
_TAKE_VALUE = ("--cfg", CONFIG_DIR, COMPLETION, "--config-path", "--config-name", "--package")
_TAKE_VALUE_OF_HYDRA = ("--experimental-rerun",)
# Options of Hydra that have no meaning here: the alternative.
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "--config-path": "files of your own are found with --config-dir DIR, or as GROUP=FILE.yaml",
        "--config-name": "every run begins with conf/config.yaml; choose experiment=NAME or experiment=FILE.yaml",
        "--multirun": "one command is one run; write a loop in the shell",
        "--run": "a command without any option runs; leave it out",
        "--package": "--print shows every key; search its output",
        "--info": "--print shows the configuration, --check finds mistakes, --help lists groups and keys",
        "--hydra-help": "--help lists the options, groups and keys of ropewalk train",
        "--experimental-rerun": "experiment=outputs/RUN_NAME/config.yaml run_name=NEW starts that run again",
    }
)


@dataclass
class Options:
    """The options of a command line; `arguments` holds its other words.

    flags: the given ones of FLAGS. own: the folder of --config-dir. shell: the shell of --shell-completion.
    """

    flags: set[str] = field(default_factory=set)
    own: str = ""
    shell: str = ""
    arguments: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


def read_options(words: Sequence[str]) -> Options:
    """Separates a command line into options and arguments; messages about wrong options are in `mistakes`."""
    found = Options()
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if word.startswith("-") and word not in ("-", "--", "--resolve"):
            _read(word, rest, found)
        elif word not in ("--", "--resolve"):
            found.arguments.append(word)
    if "--resolve" in words and "--print" not in found.flags:
        found.mistakes.append(
            "--resolve: is for --print, which always shows resolved values; give --print alone"
        )
    return found


def _read(word: str, rest: deque[str], found: Options) -> None:
    short, has_value, value = word.partition("=")
    option = _SHORT.get(short, short)
    if option in _TAKE_VALUE and not has_value:
        value = rest.popleft() if rest else ""
    elif has_value and option not in (*_TAKE_VALUE, *_TAKE_VALUE_OF_HYDRA):
        known = option in FLAGS or option in _INSTEAD
        says = "takes no value" if known else _unknown(option, value)
        found.mistakes.append(f"{one_line(word)}: {says}")
        return
    if option in FLAGS:
        found.flags.add(option)
    elif option == CONFIG_DIR:
        _take_folder(value, found)
    elif option == "--cfg":
        if value == "job":
            found.flags.add("--print")
        else:
            found.mistakes.append(
                f"--cfg {one_line(value)}: only --cfg job has a meaning here; it is --print"
            )
    elif option == COMPLETION:
        if value == "install=bash":
            found.shell = "bash"
        else:
            found.mistakes.append(
                f"{COMPLETION} {one_line(value)}: there is install=bash; to remove it: complete -r python"
            )
    elif option in _INSTEAD:
        found.mistakes.append(
            f"{one_line(word)}: is Hydra's and has no meaning here; {_INSTEAD[option]}"
        )
    else:
        # The word after the option is its value unless it looks like an argument: one mistake, not two.
        if rest and "=" not in rest[0] and not rest[0].startswith(("-", "+", "~")):
            value = rest.popleft()
        found.mistakes.append(f"{one_line(word)}: {_unknown(option, value)}")


def _take_folder(value: str, found: Options) -> None:
    if not value:
        found.mistakes.append(f"{CONFIG_DIR}: names no folder; write {CONFIG_DIR} DIR")
    elif found.own:
        found.mistakes.append(
            f"{CONFIG_DIR} {one_line(value)}: is given twice; put the files into one folder"
        )
    else:
        found.own = value


def _unknown(option: str, value: str) -> str:
    """Returns what to write instead of an unknown option, such as one that names a setting (`--lr 3e-4`)."""
    key = option.lstrip("-").replace("-", "_")
    ours = sorted((one for one in known_keys() if f".{one}".endswith(f".{key}")), key=len)
    if meaning := ours[0] if key and ours else meaning_of(key):
        # Repeat the given value only if the name is ours: another system's value may mean something else.
        shown = one_line(value) if ours and value else "VALUE"
        give = f"settings are written without dashes; give {meaning}={shown}"
        return meaning if " " in meaning else give
    known = (*FLAGS, CONFIG_DIR, COMPLETION)
    return f"unknown{did_you_mean(option, known, likeness=0.6)}; there are {', '.join(known)}"
