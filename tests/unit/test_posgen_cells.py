"""The committed numbers and picture of PosGen are those of its cells, and a cell's command is one that can be run."""

import json
import shlex
from pathlib import Path

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from tests.benchmark import posgen
from train.configuration import validate
from train.configuration.compose import compose_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_numbers_of_the_table_are_those_of_the_cells() -> None:
    assert json.loads(posgen.RECORD.read_text())["numbers"] == posgen.gathered()


def test_the_picture_shows_the_cells() -> None:
    labels = {name: method.label for name, method in posgen.METHODS.items()}
    assert posgen.PICTURE.read_text() == posgen.draw(posgen.curves(), labels)


def test_every_cell_has_the_command_of_its_run_and_the_name_of_its_file() -> None:
    for path in sorted(posgen.CELLS.rglob("*.json")):
        cell = json.loads(path.read_text())
        rule, seed, size = cell["rule"], cell["seed"], cell["size"]
        words = posgen.command(posgen.METHODS[cell["method"]].run, rule, seed, size)
        assert cell["command"] == shlex.join(["python", *words])
        assert path == posgen.path_of(cell["method"], rule, seed, size)


@pytest.mark.parametrize("run", posgen.OVERRIDES)
def test_a_run_is_sound(run: str) -> None:
    words = posgen.command(run, "semi_recursive", 0, "small")
    assert validate.rules(compose_run(words[2:]), 1) == []
