"""Settings of long-context tasks in a run: what is not possible names a way out."""

from typing import Any

import pytest

from train.configuration.evaluation_settings import EvaluationConfig
from train.configuration.prompt_rules import prompt_problems
from train.configuration.prompt_settings import PromptTaskConfig
from train.configuration.schema import RunConfig, ScheduleConfig


def said(name: str, **settings: Any) -> list[str]:
    evaluation = EvaluationConfig(tasks={name: PromptTaskConfig(task="passkey", **settings)})
    return prompt_problems(RunConfig("named", ScheduleConfig({}), evaluation=evaluation))


@pytest.mark.parametrize("name", ["held_out", "held_out_web", "accuracy", "long_perplexity"])
def test_the_name_of_another_evaluation_is_refused(name: str) -> None:
    assert said(name) == [
        f"evaluation.tasks.{name}: the evaluation {name} has this name; give the entry another, and task=passkey"
    ]


@pytest.mark.parametrize("name", ["held_outside", "accuracy_of_keys", "long-perplexity", "clé_2"])
def test_a_name_that_begins_like_another_evaluation_is_free(name: str) -> None:
    assert said(name) == []


@pytest.mark.parametrize("name", ["my task", "a/b", "a=b"])
def test_a_name_that_no_argument_can_hold_is_refused(name: str) -> None:
    assert said(name) == [f"evaluation.tasks.{name}: is no name; use letters, digits, _ and -"]


def test_a_last_part_that_holds_every_prompt_has_no_effect() -> None:
    assert said("p", lengths=[64, 256], last_tokens=255) == []
    assert said("p", last_tokens=256) == []
    assert said("p", lengths=[64, 256], last_tokens=256) == [
        "evaluation.tasks.p.last_tokens=256: has no effect, no prompt is longer; give fewer, or 0"
    ]
