"""Applies KEY=VALUE, +KEY=VALUE and ~KEY to a composed tree.

Hydra would stop at the first unknown key; this reports all of them.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from data.printable import one_line
from train.configuration.keys import children, field_at, key_mistake
from train.configuration.library_errors import UNUSABLE, words_of
from train.configuration.nearest import did_you_mean
from train.configuration.typed import WRONG, default_of, plain


def change_all(tree: Any, changes: Sequence[Override], mistakes: list[str]) -> None:
    """Applies all changes to `tree`; a wrong one changes nothing and adds a line to `mistakes`."""
    for override in changes:
        try:
            mistake = _change(tree, override)
        except UNUSABLE as error:
            mistake = f"cannot be set ({words_of(error)}); give a value as --print shows it"
        if mistake:
            mistakes.append(f"{one_line(override.input_line or '')}: {mistake}")
    for override in changes:
        if override.is_delete():
            _give_default(tree, override.key_or_group)


def _change(tree: Any, override: Override) -> str | None:
    """Applies one change to `tree`; returns what is wrong with it, and then changes nothing."""
    key = override.key_or_group
    *path, name = key.split(".")
    present = name in children(tree, path)
    if override.package is not None:
        return "only a group has a package; write KEY=VALUE"
    if override.is_sweep_override():
        return "give one value; a list is written [1,2]"
    if override.is_delete():
        return _remove(tree, path, name)
    value = override.value()
    if override.is_add() and present and not isinstance(value, dict):
        return "is there already; write it without the plus sign"
    adds = override.is_add() or (override.is_force_add() and not present)
    if not adds and (mistake := key_mistake(key, tree)):
        return mistake
    both_are_mappings = isinstance(value, dict) and bool(children(tree, key.split(".")))
    OmegaConf.update(tree, key, value, merge=both_are_mappings, force_add=True)
    return None


def _remove(tree: Any, path: Sequence[str], name: str) -> str | None:
    """Removes a key from its mapping; returns why it cannot."""
    there = children(tree, path)
    if name not in there:
        return f"there is none to remove{did_you_mean(name, there, likeness=0.4)}"
    del (OmegaConf.select(tree, ".".join(path)) if path else tree)[name]
    return None


def _give_default(tree: Any, key: str) -> None:
    """Gives a removed key its default, so that references to it still resolve; a removed entry stays removed."""
    *path, name = key.split(".")
    field, there = field_at([*path, name]), children(tree, path)
    if field is None or not there or name in there:
        return
    default = default_of(field)
    if default is not WRONG:
        OmegaConf.update(tree, key, plain(default), merge=False, force_add=True)
