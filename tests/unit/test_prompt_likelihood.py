"""Tasks judged by likelihood: a group of candidates counts if the answer's loss is smallest behind the right one."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.prompts.catalogue import TASKS
from data.prompts.encoder import ClosedVocabulary
from data.prompts.filler import Noise
from model.at_step import AtStep
from train.configuration.prompt_settings import PromptTaskConfig
from train.evaluation.prompt_plan import PromptPlan
from train.evaluation.prompt_sets import PromptSet
from train.evaluation.prompt_streams import PromptScore
from train.evaluation.prompts import PromptEvaluation

NAME, SAMPLES, DEPTHS = "personal_passkey", 20, 2
# Of the ids of a prompt and the place of its answer.
Losses = Callable[[list[int], int], list[float]]


def reading(ids: list[int], answer: int) -> list[float]:
    """Loses nothing where the whole answer stands in the context, else more for the last token than for others."""
    asked = ids[answer:]
    # The question holds no digit.
    found = any(ids[place : place + len(asked)] == asked for place in range(answer))
    return [0.0] * len(asked) if found else [*[1.0] * (len(asked) - 1), 3.0]


def blind(ids: list[int], answer: int) -> list[float]:
    return [1.0] * (len(ids) - answer)


def row_of(losses: Losses, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The row of an evaluation of a model that gives these losses; a token with a loss is not the most probable."""

    def scores(_: Any, prompts: PromptSet, __: Any) -> list[PromptScore]:
        found = [
            np.array(losses(prompts.ids(number).tolist(), one.answer))
            for number, one in enumerate(prompts.outlines)
        ]
        return [PromptScore((one > 0).astype(np.int64), one) for one in found]

    monkeypatch.setattr(PromptEvaluation, "_scorer", lambda *_: SimpleNamespace(scores=scores))
    settings = PromptTaskConfig(
        task=NAME, lengths=[128], depths=DEPTHS, samples=SAMPLES, controls=True, last_tokens=16
    )
    encoder = ClosedVocabulary()
    mesh = SimpleNamespace(
        together=lambda make: make(), gather_objects=lambda one: [one], rank=0, world_size=1
    )
    maker = TASKS[NAME].maker(encoder, Noise(encoder))
    plan = PromptPlan(NAME, NAME, settings, maker)
    evaluation = PromptEvaluation(plan, mesh, None, pad_id=0, every_steps=0)  # type: ignore[arg-type]
    stage = SimpleNamespace(shape=SimpleNamespace(sequence_length=128))
    point = SimpleNamespace(stage=stage, lengths=(128,), at=AtStep({}, 10_000.0))
    return evaluation.evaluate(None, point)  # type: ignore[arg-type]


def test_a_model_that_reads_finds_the_document_of_every_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = row_of(reading, monkeypatch)
    assert (row["judged"], row["chance"]) == ("likelihood", 0.1)
    assert (row["prompts"], row["hit_share"], row["loss"]) == (SAMPLES * DEPTHS, 1.0, 0.0)
    for cell in row["cells"]:
        assert (cell["prompts"], cell["hits"], cell["loss"]) == (SAMPLES, SAMPLES, 0.0)


def test_without_the_key_a_model_that_reads_is_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(reading, monkeypatch)
    for part in ("removed", "swapped"):
        hits = sum(cell[part]["hits"] for cell in row["cells"])
        assert hits / (SAMPLES * DEPTHS) < 0.1 + 0.15  # three standard errors
        assert all(cell[part]["loss"] == pytest.approx(7 / 5) for cell in row["cells"])
    # At the end of the context the last part still holds the key, at its begin it does not.
    first, last = (cell["last_part"]["hits"] for cell in row["cells"])
    assert first < SAMPLES / 2
    assert last == SAMPLES


def test_a_model_that_does_not_look_is_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_of(blind, monkeypatch)
    assert 0 < row["hit_share"] < 0.1 + 0.15  # three standard errors
