"""An evaluation that a kill cuts off is repeated or completed: every task has one row for a step, as in a whole run."""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train import loop
from train.checkpointing.state import read_state
from train.configuration.compose import compose_run
from train.evaluation import tasks
from train.evaluation.held_out import HeldOutLoss
from train.evaluation.undisturbed import COST
from train.job import run_job
from train.schedule.stages import Point
from train.trainer import Trainer, WholeTrainer

Arguments = Callable[..., list[str]]
# What a test plants in the process of the run.
Plant = Callable[[pytest.MonkeyPatch], None]
# Two stages of two steps, the second in another layout, for which the engine is built anew.
STAGE = (
    "{tokens: 512, sequence_length: 64, batch_tokens: 256, micro_batch_tokens: 64, parallel: %s}"
)
STAGES = f"first: {STAGE % '{zero_stage: 1}'}, second: {STAGE % '{zero_stage: 2}'}"
CHANGES = {
    "preflight.enabled": "false",
    "checkpoint.every_steps": "1",
    "checkpoint.keep": "9",
    "evaluation.max_tokens": "512",
    "evaluation.yardstick_tokens": "100",
}


class Second:
    """A task after the held-out loss."""

    every_steps = 0

    def evaluate(self, trainer: Trainer, point: Point) -> dict[str, Any]:
        weights = trainer.engine.parameters.named.values()
        return {"sum": sum(float(one.sum()) for one in weights), "rate": point.learning_rate}

    def sentence(self, row: Mapping[str, Any]) -> str:
        return f"{row['sum']}"

    def numbers(self, row: Mapping[str, Any]) -> dict[str, float]:
        return {"sum": row["sum"]}

    def table(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"sum": row["sum"]} for row in rows]


def start(arguments: list[str], plant: Plant = lambda _: None) -> int:
    """Runs the command in a process of its own; returns its exit status, None after a kill."""
    config = compose_run(arguments)

    def work(*_: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tasks, "TASKS", {**tasks.TASKS, "second": lambda *_: Second()})
            plant(patch)
            return run_job(config)

    (status,) = run_on_ranks(work, 1)
    return status


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def killed_between_tasks(patch: pytest.MonkeyPatch, stage: str = "first") -> None:
    original = Second.evaluate

    def evaluate(task: Second, trainer: Trainer, point: Point) -> dict[str, Any]:
        if point.stage.name == stage:
            send(signal.SIGKILL)
        return original(task, trainer, point)

    patch.setattr(Second, "evaluate", evaluate)


def killed_inside_a_task(patch: pytest.MonkeyPatch) -> None:
    original, calls = WholeTrainer.token_losses, []

    def token_losses(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            send(signal.SIGKILL)
        return original(*given)

    patch.setattr(WholeTrainer, "token_losses", token_losses)


def asked_to_stop_and_killed_between_tasks(patch: pytest.MonkeyPatch) -> None:
    original = HeldOutLoss.evaluate

    def evaluate(*given: Any) -> Any:
        send(signal.SIGTERM)
        return original(*given)

    patch.setattr(HeldOutLoss, "evaluate", evaluate)
    killed_between_tasks(patch)


def asked_to_stop_before_the_last_step_and_killed_between_tasks(patch: pytest.MonkeyPatch) -> None:
    original, calls = loop.optimizer_step, []

    def optimizer_step(*given: Any, **named: Any) -> Any:
        result = original(*given, **named)
        calls.append(result)
        if len(calls) == 1:
            send(signal.SIGTERM)
        return result

    patch.setattr(loop, "optimizer_step", optimizer_step)
    killed_between_tasks(patch, "second")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def evaluations(folder: Path) -> list[dict[str, Any]]:
    found = rows(folder, "evaluation")
    return [{key: value for key, value in row.items() if key not in COST} for row in found]


@pytest.mark.slow
def test_every_task_has_one_row_for_a_step_however_often_its_evaluation_is_cut_off(
    small_run: Arguments, tmp_path: Path
) -> None:
    schedule = tmp_path / "two.yaml"
    rate = "{shape: constant, peak: 1.0e-3}"
    schedule.write_text(f"{{learning_rate: {rate}, stages: {{{STAGES}}}}}")

    def arguments(name: str) -> list[str]:
        return small_run(tmp_path, run_name=name, **CHANGES, schedule=str(schedule))

    def due(step: int) -> list[str]:
        return read_state(tmp_path / f"cut/checkpoints/step_{step:08}").due_evaluations

    assert start(arguments("whole")) == 0
    whole = evaluations(tmp_path / "whole")
    assert [(row["step"], row["task"]) for row in whole] == [
        (step, task) for step in (2, 4) for task in ("held_out", "second")
    ]
    for plant in (
        killed_between_tasks,
        killed_inside_a_task,
        asked_to_stop_and_killed_between_tasks,
    ):
        with pytest.raises(RuntimeError, match="ranks died"):
            start(arguments("cut"), plant)
    # The last one was saved between the tasks. The next start completes it in the layout of the first stage.
    assert evaluations(tmp_path / "cut") == whole[:1]
    assert due(2) == ["second"]
    with pytest.raises(RuntimeError, match="ranks died"):
        start(arguments("cut"), asked_to_stop_before_the_last_step_and_killed_between_tasks)
    assert evaluations(tmp_path / "cut") == whole[:3]
    assert due(4) == ["held_out", "second"]
    # The run is over, but for its last evaluation.
    assert start(arguments("cut")) == 0
    assert evaluations(tmp_path / "cut") == whole
    losses = [
        [row["loss"] for row in rows(tmp_path / name, "metrics")] for name in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    before = (tmp_path / "cut/evaluation.jsonl").read_bytes()
    assert start(arguments("cut")) == 0
    assert (tmp_path / "cut/evaluation.jsonl").read_bytes() == before
