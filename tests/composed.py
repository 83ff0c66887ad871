"""Trees of conf/ composed once: a fixture for tests that compose many runs of the same groups."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from train.configuration import compose

_compose = compose._compose


@cache
def _tree(*choices: str) -> Any:
    mistakes: list[str] = []
    tree = _compose(list(choices), mistakes)
    assert not mistakes, mistakes
    return tree


def compose_once(choices: Sequence[str], mistakes: list[str]) -> Any:
    """In place of `compose._compose`: a copy of the tree. What cannot be composed is left to it."""
    try:
        return copy.deepcopy(_tree(*choices))
    except AssertionError:
        return _compose(list(choices), mistakes)


@pytest.fixture(autouse=True)
def composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported by a test file, it serves all tests of it; those with a conf/ of their own put `_compose` back."""
    monkeypatch.setattr(compose, "_compose", compose_once)
