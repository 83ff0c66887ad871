"""What docs/benchmarks.md says of `experiment=retrieval_small` holds in its record, and the picture shows it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark.retrieval_picture import draw
from tests.benchmark.retrieval_tables import HAYSTACKS, distance, verdict

ROOT = Path(__file__).resolve().parents[2]
# Beyond it no windowed layer reaches, wherever between two lines of filler the needle lies: four windows of 8 reach 28
# tokens back, and a piece of filler has at most 64.
BEYOND_WINDOWS = 128
# Hits by guessing: 5 digits.
CHANCE = 1e-5


@pytest.fixture(scope="module")
def numbers() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/benchmarks/retrieval_small.json").read_text())[
        "numbers"
    ]
    return found


def share(cells: list[dict[str, Any]]) -> float:
    return sum(cell["hits"] for cell in cells) / sum(cell["prompts"] for cell in cells)


def test_the_picture_shows_the_numbers(numbers: dict[str, Any]) -> None:
    picture = (ROOT / "docs/pictures/retrieval_small.svg").read_text()
    assert picture == draw(numbers["keys"])


@pytest.mark.parametrize("haystack", HAYSTACKS)
def test_the_trained_model_finds_the_key_at_the_trained_length(
    numbers: dict[str, Any], haystack: str
) -> None:
    cells = numbers["keys"]["trained"][haystack]
    assert share([cell for cell in cells if cell["length"] == 1_024]) > 0.9


@pytest.mark.parametrize("haystack", HAYSTACKS)
@pytest.mark.parametrize("model", ["windowed", "untrained"])
def test_a_model_that_cannot_see_the_key_is_at_chance(
    numbers: dict[str, Any], model: str, haystack: str
) -> None:
    cells = numbers["keys"][model][haystack]
    far = [cell for cell in cells if distance(cell) > BEYOND_WINDOWS]
    assert sum(cell["prompts"] for cell in far) >= 100
    assert share(far) <= CHANCE


def test_controls_are_at_chance(numbers: dict[str, Any]) -> None:
    assert {row["haystack"] for row in numbers["controls"]} == {*HAYSTACKS}
    for row in numbers["controls"]:
        assert row["removed"]["hits"] == row["swapped"]["hits"] == 0


def test_a_task_without_a_difference_says_so() -> None:
    assert verdict([1.0, 0.1], [0.1, 2.0]) == "hits"
    assert verdict([0.0, 0.0], [2.0, 2.3]) == "loss only"
    assert verdict([0.3, 0.3], [2.0, 2.0]) == "none"
