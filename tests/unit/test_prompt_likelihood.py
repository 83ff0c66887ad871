"""Tasks judged by likelihood: a group of candidates counts if the answer's loss is smallest behind the right one."""

import pytest

from tests.unit.scored_prompts import place_of_answer, row_of
from train.configuration.prompt_settings import PromptTaskConfig

SAMPLES, DEPTHS = 20, 2
SETTINGS = PromptTaskConfig(
    task="personal_passkey",
    lengths=[128],
    depths=DEPTHS,
    samples=SAMPLES,
    controls=True,
    last_tokens=16,
)


def reading(ids: list[int], answer: int, _: int) -> list[float]:
    """Loses nothing where the whole answer stands in the context, else more for the last token than for others."""
    if place_of_answer(ids, answer) is None:
        return [*[1.0] * (len(ids) - answer - 1), 3.0]
    return [0.0] * (len(ids) - answer)


def blind(ids: list[int], answer: int, _: int) -> list[float]:
    return [1.0] * (len(ids) - answer)


def test_a_model_that_reads_finds_the_document_of_every_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(SETTINGS, reading, monkeypatch)
    assert (row["judged"], row["chance"]) == ("likelihood", 0.1)
    assert (row["prompts"], row["hit_share"], row["loss"]) == (SAMPLES * DEPTHS, 1.0, 0.0)
    for cell in row["cells"]:
        assert (cell["prompts"], cell["hits"], cell["loss"]) == (SAMPLES, SAMPLES, 0.0)


def test_without_the_key_a_model_that_reads_is_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(SETTINGS, reading, monkeypatch)
    for part in ("removed", "swapped"):
        hits = sum(cell[part]["hits"] for cell in row["cells"])
        assert hits / (SAMPLES * DEPTHS) < 0.1 + 0.15  # three standard errors
        assert all(cell[part]["loss"] == pytest.approx(7 / 5) for cell in row["cells"])
    # At the end of the context the last part still holds the key, at its begin it does not.
    first, last = (cell["last_part"]["hits"] for cell in row["cells"])
    assert first < SAMPLES / 2
    assert last == SAMPLES


def test_a_model_that_does_not_look_is_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(SETTINGS, blind, monkeypatch)
    assert 0 < row["hit_share"] < 0.1 + 0.15  # three standard errors
