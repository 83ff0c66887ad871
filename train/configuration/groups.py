"""Configuration files by group: from `conf/`, from `--config-dir`, or named by a path.

    schedule=to_32k              a name: conf/schedule/to_32k.yaml, or schedule/to_32k.yaml of --config-dir
    schedule=own.yaml            a path, by its suffix or a slash in it; relative to the folder of the command

A file may choose others in its `defaults:` list, by name or by a path relative to the file itself. Such a path may
not leave the folder of the file (or of `--config-dir`), not even through `..` or a symbolic link.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data.printable import one_line
from train.configuration.nearest import did_you_mean
from train.configuration.paths import absolute_content, absolute_path
from train.configuration.schema import RunConfig
from train.configuration.yaml_file import YamlFile, read_yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
ROOT_FILE = "config"
# The key above a group's values, if it is not the group's own name. "": none.
PACKAGES: Mapping[str, str] = MappingProxyType({"experiment": "", "recipe": "model"})
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class GroupFile:
    """A chosen file. given: the choice as written, for messages. name: unique among the files of its group.

    defaults: the list for Hydra, which refers to files by `name`. is_own: not from the shipped `conf/`.
    """

    group: str
    name: str
    given: str
    yaml: YamlFile
    defaults: Sequence[Any]
    is_own: bool

    @property
    def package(self) -> str:
        """Returns the key above its values; "" for none."""
        return package_of(self.group)

    @property
    def is_whole(self) -> bool:
        """Whether it holds a whole configuration, like a run's config.yaml; then no other file is used."""
        every_part = {field.name for field in fields(RunConfig)}
        return self.group == "experiment" and every_part <= set(self.yaml.content)

    @property
    def content(self) -> dict[str, Any]:
        """Returns its values without the `defaults:` list; paths in an own file are absolute."""
        values = {key: value for key, value in self.yaml.content.items() if key != "defaults"}
        if not self.is_own:
            return values
        absolute: dict[str, Any] = absolute_content(values, self.yaml.path.parent, self.package)
        return absolute


def package_of(group: str) -> str:
    """Returns the key above the values of a group's files; "" for none."""
    return PACKAGES.get(group, group)


def groups(own: Path | None = None) -> dict[str, list[str]]:
    """Returns the groups and their names, from `conf/` and from the folder `own` of --config-dir."""
    return {
        folder.name: sorted({*_names(folder), *(_names(own / folder.name) if own else ())})
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }


def file_of(group: str, name: str, own: Path | None = None) -> Path:
    """Returns the file that has this name in a group."""
    return _own_file(own, group, name) or CONF / group / f"{name}.yaml"


def is_file_choice(text: str) -> bool:
    """Whether a choice of a group is a path, not a name."""
    return "/" in text or text.endswith(_SUFFIXES)


def own_folder(text: str, start: Path) -> Path | None:
    """Returns the folder of --config-dir; None if it is not given. start: the folder of the command.

    Raises:
        ValueError: the folder does not exist or holds no groups; one line.
    """
    if not text:
        return None
    own = Path(absolute_path(text, start))
    at, known = f"--config-dir {one_line(str(own))}", groups()
    if not os.path.isdir(own):  # noqa: PTH112 (raises nothing)
        raise ValueError(f"{at}: no such folder")
    if not any((own / group).is_dir() for group in known):
        raise ValueError(
            f"{at}: holds none of the folders {', '.join(known)}; put files into DIR/GROUP/NAME.yaml"
        )
    if passed_over := _names(own):
        raise ValueError(
            f"{at}: {passed_over[0]}.yaml is not read; put it into DIR/experiment/ and choose it with experiment=NAME"
        )
    return own


class Gathering:
    """Reads the chosen files and the files that these choose, each once.

    start: the folder at which relative paths of the command line start. own: the folder of --config-dir.
    """

    def __init__(self, start: Path, own: Path | None) -> None:
        self._start, self._own = start, own
        self._by_path: dict[Path, GroupFile] = {}
        self._open: list[Path] = []

    @property
    def files(self) -> list[GroupFile]:
        """Returns all files read so far."""
        return list(self._by_path.values())

    def root(self) -> GroupFile:
        """Returns the file that every run begins with: conf/config.yaml.

        Raises:
            ValueError: the file cannot be read.
        """
        return self._read("", CONF / f"{ROOT_FILE}.yaml", "conf/config.yaml", is_own=False)

    def choose(self, group: str, chosen: str, by: GroupFile | None = None) -> GroupFile:
        """Returns the file that `chosen` names, and reads those that it chooses. by: the file that chooses it.

        Raises:
            ValueError: there is none, it cannot be read, or its path leaves the allowed folder; one line.
        """
        if is_file_choice(chosen):
            path = self._path(group, chosen, by)
            given = f"{group}={path}" if by else f"{group}={chosen}"
            return self._read(group, path, given, is_own=by is None or by.is_own)
        return self._named(group, chosen)

    def _named(self, group: str, name: str) -> GroupFile:
        given = f"{group}={one_line(name)}"
        known = groups(self._own)
        if name not in known[group]:
            near = did_you_mean(name, known[group], likeness=0.4)
            raise ValueError(
                f"{given}: no such {group}{near}; there are {', '.join(known[group])}, or give the path of a file"
            )
        shipped = CONF / group / f"{name}.yaml"
        own = _own_file(self._own, group, name)
        if own is None:
            return self._read(group, shipped, given, is_own=False)
        if shipped.is_file():
            raise ValueError(
                f"{given}: stands in conf/ and in --config-dir; rename {own}, or choose it by its path"
            )
        assert self._own is not None
        _must_be_inside(own, self._own, given)
        return self._read(group, own, given, is_own=True)

    def _path(self, group: str, chosen: str, by: GroupFile | None) -> Path:
        if by is None:
            return Path(absolute_path(chosen, self._start))
        folder = by.yaml.path.parent
        path = folder / chosen
        _must_be_inside(path, folder, f"{by.given}: defaults: {group}: {one_line(chosen)}")
        return path

    def _read(self, group: str, path: Path, given: str, *, is_own: bool) -> GroupFile:
        if path in self._open:
            raise ValueError(f"{given}: refers to itself through `defaults:`; mend the list")
        if path not in self._by_path:
            try:
                file = read_yaml(path)
                _check_head(file, group)
            except ValueError as error:
                raise ValueError(f"{given}: {_in_file(given, path)}{error}") from None
            name = self._free_name(group, path.stem) if group else ROOT_FILE
            bare = GroupFile(group, name, given, file, (), is_own)
            self._open.append(path)
            try:
                defaults = [self._default(entry, bare) for entry in _default_entries(bare)]
            finally:
                self._open.pop()
            self._by_path[path] = replace(bare, defaults=defaults)
        return self._by_path[path]

    def _default(self, entry: Any, by: GroupFile) -> Any:
        """Returns an entry of a file's `defaults:`, with the `name` of the file that it chooses."""
        where = f"{by.given}: defaults: {one_line(str(entry))}"
        if entry == "_self_":
            return entry
        if isinstance(entry, str) and by.group:  # another file of the same group
            return self.choose(by.group, entry, by).name
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise ValueError(
                f"{where}: must be _self_, NAME, /GROUP: NAME or override /GROUP: NAME"
            )
        ((key, chosen),) = entry.items()
        words = str(key).split()
        group = words[-1].removeprefix("/") if words else ""
        if words[:-1] not in ([], ["override"]) or not (
            by.group == "" or words[-1].startswith("/")
        ):
            raise ValueError(f"{where}: write /GROUP: NAME, or override /GROUP: NAME")
        if group not in (known := groups()):
            near = did_you_mean(group, known, likeness=0.4)
            raise ValueError(f"{where}: no such group{near}; there are {', '.join(known)}")
        if chosen is None:
            return {key: None}
        if not isinstance(chosen, str | int) or "${" in str(chosen):
            raise ValueError(f"{where}: must be one name")
        return {key: self.choose(group, str(chosen), by).name}

    def _free_name(self, group: str, stem: str) -> str:
        """Returns a name that no other file of the group has, in characters that Hydra accepts."""
        name = "".join(letter if letter.isalnum() or letter in "_-" else "_" for letter in stem)
        taken = {file.name for file in self.files if file.group == group}
        return next(
            candidate
            for number in range(len(taken) + 1)
            if (candidate := f"{name}_{number}" if number else name) not in taken
        )


def _names(folder: Path) -> list[str]:
    return [file.stem for suffix in _SUFFIXES for file in folder.glob(f"*{suffix}")]


def _own_file(own: Path | None, group: str, name: str) -> Path | None:
    """Returns the file of this name in the folder of --config-dir, if there is one."""
    paths = [own / group / f"{name}{suffix}" for suffix in _SUFFIXES] if own else []
    return next((path for path in paths if path.exists()), None)


def _must_be_inside(path: Path, folder: Path, where: str) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: leads out of {folder}; copy that file into the folder")


def _in_file(given: str, path: Path) -> str:
    """Returns the path of a file for a message; "" if its choice shows the path already."""
    return "" if given.endswith(str(path)) or is_file_choice(given) else f"{path}: "


def _check_head(file: YamlFile, group: str) -> None:
    """Raises ValueError for a `# @package` other than the group's, and for settings of Hydra's own."""
    package = package_of(group) if group else ""
    if file.package and file.package not in ("_group_", package or "_global_"):
        raise ValueError(
            f"# @package {one_line(file.package)}: values of {group or 'this file'} stand in {package or '_global_'}; "
            "leave that line out"
        )
    if "hydra" in file.content:
        raise ValueError(
            f"line {file.lines['hydra']}: hydra: settings of Hydra's own have no effect here; leave them out"
        )


def _default_entries(file: GroupFile) -> Sequence[Any]:
    entries = file.yaml.content.get("defaults", [])
    if not isinstance(entries, list):
        raise ValueError(f"{file.given}: defaults: must be a list")
    return entries
