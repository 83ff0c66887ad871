"""Trees of conf/ composed once: a fixture for tests that compose many runs of the same groups."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from train.configuration import compose
from train.configuration.groups import GroupFile

_composed_tree = compose.composed_tree
_trees: dict[tuple[object, ...], tuple[Any, list[GroupFile]]] = {}


def compose_once(
    files: Sequence[GroupFile], choices: Mapping[str, GroupFile]
) -> tuple[Any, list[GroupFile]]:
    """In place of `composed_tree`: a copy of the tree. Files are told apart by their place and text."""
    key = (
        tuple((file.yaml.path, file.yaml.text) for file in files),
        tuple((group, file.yaml.path) for group, file in choices.items()),
    )
    if key not in _trees:
        _trees[key] = _composed_tree(files, choices)
    tree, used = _trees[key]
    return copy.deepcopy(tree), used


@pytest.fixture(autouse=True)
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported by a test file, it serves all tests of it."""
    monkeypatch.setattr(compose, "composed_tree", compose_once)
