"""The paths of a configuration: which keys hold a path, and where a relative path starts.

A field that holds a path is marked in its annotation (`data/config.py: PathMark`). A relative path in an argument
or in the shipped `conf/` starts at the folder in which the command was started; in another configuration file it
starts at the folder of that file. After composition every path is absolute.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from data.config import PathMark
from train.configuration.keys import hint_at
from train.configuration.schema import RunConfig
from train.configuration.typed import field_types

T = TypeVar("T")
_PATH = PathMark()
# An absolute path without empty parts, `.` or `..`.
_PLAIN_FOLDER = re.compile(r"(/(?!\.\.?(/|$))[^/]+)+")
_FIRST_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def start_folder() -> Path:
    """Returns the folder in which this command was started, by its name in the shell (PWD).

    Links in that name stay: hosts may mount the same folder at different places behind the same link.

    Raises:
        ValueError: the folder was removed since.
    """
    named = os.environ.get("PWD", "")
    try:
        if _PLAIN_FOLDER.fullmatch(named) and Path(named).samefile("."):
            return Path(named)
    except OSError:
        pass  # PWD belongs to another process
    try:
        return Path.cwd()
    except OSError:
        raise ValueError(
            "the folder that this command was started in does not exist any more; start it in another"
        ) from None


def path_mark(hint: Any) -> PathMark | None:
    """Returns the mark of an annotation whose values are paths; None for any other annotation."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, PathMark)), None)


def is_path(key: str) -> bool:
    """Whether this key of the configuration holds a path."""
    return path_mark(hint_at(key.split("."))) is not None


def absolute_path(text: str, folder: Path, mark: PathMark = _PATH) -> str:
    """Returns a path as absolute text: a relative path starts at `folder`, `~/` is the user's home."""
    if not text or text in mark.words:
        return text
    if text == "~" or text.startswith("~/"):
        try:
            return str(Path(text).expanduser())
        except RuntimeError:  # this user has no home folder
            return text
    whole = text if text.startswith("/") else _joined(folder, text.removeprefix("./"))
    above, dots, below = whole.rpartition("/../")
    # `..` after a link leads out of the folder that the link leads to.
    return _joined(Path(f"{above}/..").resolve(), below) if dots else whole


def _joined(folder: Path, below: str) -> str:
    """Returns `below` as it is written, after the folder and one slash."""
    return f"{str(folder).rstrip('/')}/{below}"


def with_absolute_paths(config: T, folder: Path) -> T:
    """Returns the configuration with absolute paths; relative ones start at `folder`."""
    changed: T = _absolute(type(config), config, folder)
    return changed


def absolute_content(values: Any, folder: Path, package: str) -> Any:
    """Returns the plain values of a file in `folder` with absolute paths. package: the key above the values.

    A path that begins with a reference to another key's path (`${paths.outputs}/prepared`) stays as it is.
    """
    hint = hint_at(package.split(".")) if package else RunConfig
    return _absolute(hint, values, folder)


def _absolute(hint: Any, value: Any, folder: Path) -> Any:
    if mark := path_mark(hint):
        if not isinstance(value, str) or _begins_with_a_path(value):
            return value
        return absolute_path(value, folder, mark)
    inner = get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = field_types(hint)
        if isinstance(value, Mapping):
            return {
                name: _absolute(hints.get(name), inside, folder) for name, inside in value.items()
            }
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value)]
            paths = {name: _absolute(hints[name], getattr(value, name), folder) for name in names}
            return dataclasses.replace(value, **paths)
    if get_origin(hint) is dict and isinstance(value, Mapping):
        return {name: _absolute(inner[1], inside, folder) for name, inside in value.items()}
    return value


def _begins_with_a_path(text: str) -> bool:
    reference = _FIRST_REFERENCE.match(text)
    return reference is not None and is_path(reference.group(1))
