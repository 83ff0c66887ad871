"""The cells of a row: every depth and length has its own prompts, and the length that is asked for is theirs."""

from typing import Any

import pytest

from tests.unit.scored_prompts import place_of_answer, row_of
from train.configuration.prompt_settings import PromptTaskConfig

SAMPLES, LAST = 3, 24
SETTINGS = PromptTaskConfig(
    task="passkey",
    lengths=[96, 160],
    depths=3,
    samples=SAMPLES,
    controls=True,
    last_tokens=LAST,
)
BESIDE = ("last_part", "removed", "swapped")


def finding_early(ids: list[int], answer: int, _: int) -> list[float]:
    """Predicts an answer that stands in the first quarter of the prompt; else all but its last token."""
    place = place_of_answer(ids, answer)
    found = place is not None and place < len(ids) / 4
    return [*[0.0] * (len(ids) - answer - 1), 0.0 if found else 2.0]


def told(ids: list[int], answer: int, asked_length: int) -> list[float]:
    """Loses nothing where the length that it is told is that of the prompt."""
    return [float(asked_length != len(ids))] * (len(ids) - answer)


def cells_of(row: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    return [cell for cell in row["cells"] if given.items() <= cell.items()]


def test_a_model_that_finds_early_lines_only_has_hits_at_the_first_depth_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(SETTINGS, finding_early, monkeypatch)
    assert [(one["length"], one["depth"]) for one in row["cells"]] == [
        (length, depth) for length in (96, 160) for depth in (0.0, 0.5, 1.0)
    ]
    digits = 5
    for depth, hits in ((0.0, SAMPLES), (0.5, 0), (1.0, 0)):
        for cell in cells_of(row, depth=depth):
            assert (cell["prompts"], cell["hits"]) == (SAMPLES, hits)
            assert cell["loss"] == pytest.approx(0.0 if hits else 2 / digits)
            assert cell["first_wrong"] == (digits if hits else digits - 1)
    assert (row["prompts"], row["hit_share"]) == (6 * SAMPLES, pytest.approx(1 / 3))
    # Without the needle, or with another one, nothing is found.
    assert all(cell[part]["hits"] == 0 for cell in row["cells"] for part in BESIDE[1:])


def test_methods_of_position_are_told_the_length_of_each_prompt_and_of_its_last_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(SETTINGS, told, monkeypatch)
    assert row["hit_share"] == 1.0
    assert all(cell[part]["hits"] == SAMPLES for cell in row["cells"] for part in BESIDE)
