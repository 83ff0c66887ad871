"""A composed tree -> plain values: replaces references to other keys, and finds values that no key may have."""

import re
from typing import Any

from omegaconf import OmegaConf

from data.printable import one_line
from train.configuration.library_errors import UNUSABLE, words_of
from train.configuration.renamed_keys import renamed_model
from train.configuration.typed import WRONG, Mistakes

# Longest text of one value; far above any real one.
MOST_CHARACTERS = 4096
LARGEST_INTEGER = 2**63 - 1
_REFERENCE = re.compile(r"(?<!\\)\$\{([\w.]+)\}")


class PlainValues:
    """The plain values of a tree: `content`, with references replaced and `WRONG` in place of impossible values.

    found: by key, why a value is wrong. references: by key, the other key that its value refers to.
    """

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self.found: Mistakes = {}
        self.references: dict[str, str] = {}
        content: Any = OmegaConf.to_container(tree, resolve=False)
        if type(content.get("run_name")) is int:  # the number of a job is a valid name
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
            except UNUSABLE as error:
                wrong = f"{key}: {words_of(error)}; give a value, or refer to a key that exists"
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


def _is_name(name: Any) -> bool:
    """Whether KEY=VALUE can name this key. (Keys in YAML may also be numbers, dates or null.)"""
    return isinstance(name, str) and name != "" and name.isprintable() and "." not in name


def _strange(value: Any, key: str) -> str:
    """Returns why this cannot be the value of any key; "" if it can."""
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
