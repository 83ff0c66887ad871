"""An untrusted YAML file -> plain values, with the line of each key. The only module that imports yaml.

The file is data: no tag makes an object, and time and memory of the reader are bounded. A file is read node by node,
so that multiplying aliases (a "billion laughs" file), values that contain themselves and duplicate keys are refused
before any value is made.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from data.printable import one_line

MOST_BYTES = 256 * 1024
# Most values of one file after its aliases are replaced; deepest nesting of mappings.
MOST_VALUES = 20_000
_DEEPEST = 40
_YAML = "tag:yaml.org,2002:"
_MERGE = f"{_YAML}merge"
# YAML 1.1 reads 1e6 as text.
_FLOAT = re.compile(
    r"[-+]?(?:(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
_PACKAGE = re.compile(r"^#\s*@package\s+(\S+)\s*$", re.MULTILINE)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, and with numbers such as 1e6."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in rows if tag.split(":")[-1] not in ("timestamp", "float")]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_YAML}float", _FLOAT, list("-+0123456789."))

_SCALARS: Mapping[str, Callable[[yaml.SafeLoader, yaml.ScalarNode], Any]] = MappingProxyType(
    {
        f"{_YAML}str": yaml.SafeLoader.construct_yaml_str,
        f"{_YAML}int": yaml.SafeLoader.construct_yaml_int,
        f"{_YAML}float": yaml.SafeLoader.construct_yaml_float,
        f"{_YAML}bool": yaml.SafeLoader.construct_yaml_bool,
        f"{_YAML}null": yaml.SafeLoader.construct_yaml_null,
    }
)


@dataclass(frozen=True)
class YamlFile:
    """The contents of a file.

    lines: the line of every key; nested keys are joined by points. package: of `# @package` at its head, or "".
    """

    path: Path
    text: str
    content: dict[str, Any]
    lines: dict[str, int]
    package: str


def read_yaml(path: Path) -> YamlFile:
    """Reads a file that holds one mapping, or nothing.

    Raises:
        ValueError: the file cannot be read, or is not plain YAML; one line, with the line number in the file.
    """
    text = _read_text(path)
    try:
        content, lines = _values(text.replace("\r\n", "\n"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        says = f"{error.context or ''} {error.problem or ''}"
        raise ValueError(f"{where}not YAML: {_words(says)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: holds a character that YAML does not allow") from None
    except RecursionError:
        raise ValueError("is nested too deeply, or refers to itself") from None
    package = _PACKAGE.search(text.split("\n\n")[0])
    return YamlFile(path, text, content, lines, package.group(1) if package else "")


def _values(text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns the mapping in a text, and the line of each of its keys."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None or node.tag == f"{_YAML}null":
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise _mistake(node, "must be a mapping from keys to values")
        walk = _Walk(loader)
        return walk.mapping(node, "", 0), walk.lines
    finally:
        loader.dispose()


def _read_text(path: Path) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116 (Path.stat also raises on a NUL, as ValueError)
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("is a folder; name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is no regular file")
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(raw) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES // 1024} KiB; no configuration is")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line}: is not UTF-8 text; save the file as UTF-8") from None


class _Walk:
    """Converts nodes to plain values, and counts them."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._values = 0
        self.lines: dict[str, int] = {}

    def value(self, node: yaml.Node, key: str, depth: int) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise _mistake(
                node,
                f"more than {MOST_VALUES:,} values, aliases replaced; no configuration has so many",
            )
        if depth > _DEEPEST:
            raise _mistake(node, "is nested too deeply, or refers to itself")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_YAML}map":
            return self.mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_YAML}seq":
            return [
                self.value(inner, f"{key}.{index}", depth + 1)
                for index, inner in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return _SCALARS[node.tag](self._loader, node)
            except (ValueError, OverflowError, KeyError):
                raise _mistake(
                    node, f"{one_line(node.value[:40])!r} does not fit its tag"
                ) from None
        tag = node.tag.replace(_YAML, "!!")
        raise _mistake(node, f"the tag {one_line(tag)} is not allowed; write plain values")

    def mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        for key_node, inner in node.value:
            if key_node.tag == _MERGE:
                merged = {**self._merged(inner, key, depth), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _mistake(key_node, "a key must be a name")
            name = self.value(key_node, key, depth)
            if name in own:
                raise _mistake(key_node, f"{one_line(str(name))!r} stands twice in one mapping")
            at = f"{key}.{name}" if key else str(name)
            self.lines.setdefault(at, key_node.start_mark.line + 1)
            own[name] = self.value(inner, at, depth + 1)
        return merged | own

    def _merged(self, node: yaml.Node, key: str, depth: int) -> dict[Any, Any]:
        """Returns the keys that `<<` adds to a mapping; of several mappings the first with a key counts."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[Any, Any] = {}
        for part in parts:
            value = self.value(part, key, depth + 1)
            if not isinstance(value, dict):
                raise _mistake(part, "<< takes a mapping")
            found = {**value, **found}
        return found


def _mistake(node: yaml.Node, says: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {says}")


def _words(text: str) -> str:
    return one_line(" ".join(text.split()))
