"""Rows of long-context tasks of a made-up model, which sees the ids of a prompt and says the losses of its answer."""

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

# Of the ids of a prompt, the place of its answer, and the length that methods of position are told.
Losses = Callable[[list[int], int, int], list[float]]
# A world of one rank.
ALONE: Any = SimpleNamespace(
    together=lambda work: work(), gather_objects=lambda one: [one], rank=0, world_size=1
)


def row_of(
    settings: PromptTaskConfig, losses: Losses, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The row of an evaluation of a model that gives these losses; a token with a loss is not the most probable."""

    def scores(_: Any, prompts: PromptSet, at: AtStep) -> list[PromptScore]:
        found = [
            np.array(losses(prompts.ids(number).tolist(), one.answer, at.asked_length))
            for number, one in enumerate(prompts.outlines)
        ]
        return [PromptScore((one > 0).astype(np.int64), one) for one in found]

    monkeypatch.setattr(PromptEvaluation, "_scorer", lambda *_: SimpleNamespace(scores=scores))
    encoder = ClosedVocabulary()
    maker = TASKS[settings.task].maker(encoder, Noise(encoder))
    plan = PromptPlan(settings.task, settings.task, settings, maker)
    evaluation = PromptEvaluation(plan, ALONE, None, pad_id=0, every_steps=0)
    point: Any = SimpleNamespace(
        stage=SimpleNamespace(shape=SimpleNamespace(sequence_length=128)),
        lengths=(128,),
        at=AtStep({}, 10_000.0),
    )
    trainer: Any = None
    return evaluation.evaluate(trainer, point)


def place_of_answer(ids: list[int], answer: int) -> int | None:
    """Where the whole answer stands in the prompt before it; None: nowhere."""
    asked = ids[answer:]
    places = range(answer - len(asked) + 1)
    return next((one for one in places if ids[one : one + len(asked)] == asked), None)
