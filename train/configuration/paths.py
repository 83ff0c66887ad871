"""The paths of a configuration: which keys hold one, and where a relative one starts.

A field that holds a path is marked in its annotation (`data/config.py: PathMark`). A relative path of an argument
starts at the folder the command was started in, one of a configuration file at the folder of that file, and one of
the shipped `conf/` at the folder of the command. After composition every path is absolute.
"""

import dataclasses
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
_FIRST_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def start_folder() -> Path:
    """The folder this command was started in.

    Raises:
        ValueError: it was removed since.
    """
    try:
        return Path.cwd()
    except OSError:
        raise ValueError(
            "the folder that this command was started in does not exist any more; start it in another"
        ) from None


def path_mark(hint: Any) -> PathMark | None:
    """The mark of an annotation whose values are paths; None of any other."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, PathMark)), None)


def is_path(key: str) -> bool:
    """Whether this key of the configuration holds a path."""
    return path_mark(hint_at(key.split("."))) is not None


def absolute_path(text: str, folder: Path, mark: PathMark = _PATH) -> str:
    """A path as text, absolute: a relative one starts at `folder`, `~/` is the user's home."""
    if not text or text in mark.words:
        return text
    if text == "~" or text.startswith("~/"):
        try:
            return str(Path(text).expanduser())
        except RuntimeError:  # nobody knows the home of this user
            return text
    whole = text if text.startswith("/") else f"{folder}/{text.removeprefix('./')}"
    above, dots, below = whole.rpartition("/../")
    # `..` after a link leads out of the folder that the link leads to.
    return f"{Path(f'{above}/..').resolve()}/{below}" if dots else whole


def with_absolute_paths(config: T, folder: Path) -> T:
    """A configuration whose relative paths start at `folder`."""
    changed: T = _absolute(type(config), config, folder)
    return changed


def absolute_content(values: Any, folder: Path, package: str) -> Any:
    """The plain values of a file in `folder`, with absolute paths; package: the key that the values stand below.

    A path that begins with a reference to the path of another key (`${paths.outputs}/prepared`) stays.
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
