"""Configuration files by group: the shipped ones in `conf/`, those of `--config-dir`, and those that a path names.

    schedule=to_32k              a name: conf/schedule/to_32k.yaml, or schedule/to_32k.yaml of --config-dir
    schedule=own.yaml            a path, by its suffix or a slash in it; relative to the folder of the command

A file may choose others in its `defaults:` list, again by name or by a path relative to the file itself. No such
choice leads out of the folder of the file (or of `--config-dir`), also not through `..` or a symbolic link.
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
# Where a group's values stand, if not below the group's own name. "": at the top.
PACKAGES: Mapping[str, str] = MappingProxyType({"experiment": "", "recipe": "model"})
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class GroupFile:
    """A chosen file. given: as it was chosen, for messages. name: its own among the files of its group.

    defaults: as Hydra reads them, by `name`. is_own: not of the shipped `conf/`.
    """

    group: str
    name: str
    given: str
    yaml: YamlFile
    defaults: Sequence[Any]
    is_own: bool

    @property
    def package(self) -> str:
        """The key that its values stand below; "" at the top."""
        return package_of(self.group)

    @property
    def is_whole(self) -> bool:
        """Whether it holds a whole configuration, as the config.yaml of a run does, and nothing is laid under it."""
        every_part = {field.name for field in fields(RunConfig)}
        return self.group == "experiment" and every_part <= set(self.yaml.content)

    @property
    def content(self) -> dict[str, Any]:
        """Its values without the `defaults:` list, paths of an own file absolute."""
        values = {key: value for key, value in self.yaml.content.items() if key != "defaults"}
        if not self.is_own:
            return values
        absolute: dict[str, Any] = absolute_content(values, self.yaml.path.parent, self.package)
        return absolute


def package_of(group: str) -> str:
    """The key that the values of a group's files stand below; "" at the top."""
    return PACKAGES.get(group, group)


def groups(own: Path | None = None) -> dict[str, list[str]]:
    """Groups and the names in them, in `conf/` and in the folder `own` of --config-dir."""
    return {
        folder.name: sorted({*_names(folder), *(_names(own / folder.name) if own else ())})
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }


def file_of(group: str, name: str, own: Path | None = None) -> Path:
    """The file that a name of a group stands for."""
    return _own_file(own, group, name) or CONF / group / f"{name}.yaml"


def is_file_choice(text: str) -> bool:
    """Whether a choice of a group is the path of a file, and not a name."""
    return "/" in text or text.endswith(_SUFFIXES)


def own_folder(text: str, start: Path) -> Path | None:
    """The folder of --config-dir; None where it is not given. start: the folder of the command.

    Raises:
        ValueError: it cannot be that; one line.
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
    """The chosen files and those that they choose, each read once.

    start: where a path of the command line starts. own: the folder of --config-dir.
    """

    def __init__(self, start: Path, own: Path | None) -> None:
        self._start, self._own = start, own
        self._by_path: dict[Path, GroupFile] = {}
        self._open: list[Path] = []

    @property
    def files(self) -> list[GroupFile]:
        """All files gathered so far."""
        return list(self._by_path.values())

    def root(self) -> GroupFile:
        """The file that every run begins with: conf/config.yaml.

        Raises:
            ValueError: it cannot be read.
        """
        return self._read("", CONF / f"{ROOT_FILE}.yaml", "conf/config.yaml", is_own=False)

    def choose(self, group: str, chosen: str, by: GroupFile | None = None) -> GroupFile:
        """The file that `chosen` names, after those that it chooses itself. by: the file that chooses it.

        Raises:
            ValueError: there is none, or it cannot be read, or it leads where no file may; one line.
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
        """An entry of a file's `defaults:`, with the name by which the gathered file is known."""
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
        """A name that no other gathered file of the group has, of letters that Hydra takes."""
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
    """The file of this name in the folder of --config-dir."""
    paths = [own / group / f"{name}{suffix}" for suffix in _SUFFIXES] if own else []
    return next((path for path in paths if path.exists()), None)


def _must_be_inside(path: Path, folder: Path, where: str) -> None:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: leads out of {folder}; copy that file into the folder")


def _in_file(given: str, path: Path) -> str:
    """The path of a file, where its choice does not show it."""
    return "" if given.endswith(str(path)) or is_file_choice(given) else f"{path}: "


def _check_head(file: YamlFile, group: str) -> None:
    """Refuse a `# @package` that is not the group's, and settings of Hydra's own."""
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
