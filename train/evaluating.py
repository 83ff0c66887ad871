"""Runs the evaluations that are due after a step, and after a restart those that the end of a process cut off.

    step -> held_out -> accuracy -> checkpoint           killed before the checkpoint: a restart repeats step and both
    step -> held_out -> stop? -> checkpoint -> accuracy  killed after it: it names `accuracy`, which a restart runs

So every task has one row for a step, whatever ended the process in between.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parallel.mesh import Mesh
from train.checkpointing.state import RunState
from train.evaluation.tasks import Task
from train.evaluation.undisturbed import COST, cost_fields, undisturbed
from train.records.console import Progress
from train.records.evaluation_rows import read_evaluations, rows_of_task
from train.records.metrics_log import finite_or_null
from train.run import Run
from train.schedule.stages import Point


def is_due(every: int, step: int) -> bool:
    """Whether something that is done every so many steps is done after this one; 0: never."""
    return every > 0 and step % every == 0


def due_tasks(tasks: Mapping[str, Task], step: int, *, stage_is_over: bool) -> list[str]:
    """Returns the names of the tasks to run after a step."""
    return [name for name, task in tasks.items() if stage_is_over or is_due(task.every_steps, step)]


def evaluate(
    run: Run, due: Sequence[str], point: Point, progress: Progress, asked: Callable[[], bool]
) -> bool:
    """Runs these tasks after the step at `point`. Returns whether a request to stop came in between. Collective.

    asked: whether this rank is asked to stop. Then the state is saved before the next task, since time may be short.

    Raises:
        CheckpointFailed: that checkpoint could not be written.
    """
    stopping = False
    for number, name in enumerate(due):
        if number and not stopping:
            stopping = any(run.mesh.gather_objects(asked()))
            if stopping:
                run.state.due_evaluations = list(due[number:])
                run.save()
                run.checkpoints.require()
        _evaluate(run, name, point, progress)
    run.state.due_evaluations = []
    if due and run.page is not None and run.wandb is not None:
        run.page.refresh()
        run.wandb.file(run.folder / "report.html")
    return stopping


def cut_off(state: RunState, resume: Path | None, folder: Path, mesh: Mesh) -> list[str]:
    """Returns the tasks that the checkpoint names and that have no row yet, if it is the run's own. Collective."""

    def look() -> list[str]:
        if resume is None or resume.parent.resolve() != (folder / "checkpoints").resolve():
            return []
        rows = [
            row
            for row in read_evaluations(folder / "evaluation.jsonl")
            if row.get("step") == state.step
        ]
        return [name for name in state.due_evaluations if not rows_of_task(rows, name)]

    found: list[str] = mesh.broadcast_object(mesh.together(lambda: look() if mesh.is_main else []))
    return found


def _evaluate(run: Run, name: str, point: Point, progress: Progress) -> None:
    """Runs one task and writes its row."""
    run.phase("evaluation")
    task = run.tasks[name]
    with undisturbed(run.trainer, run.mesh.device, run.memory) as cost:
        found = task.evaluate(run.trainer, point)
    row: dict[str, Any] = {
        "step": run.state.step,
        "stage": point.stage.name,
        "tokens_seen": run.state.tokens_seen,
        "task": name,
        **finite_or_null(found),
        **cost_fields(cost, run.mesh),
    }
    if point.windows:
        row["windows"] = point.keys_seen
    if run.log is not None and run.wandb is not None:
        try:
            run.log.evaluation(row)
            so_far = read_evaluations(run.folder / "evaluation.jsonl")
            table = task.table(rows_of_task(so_far, name))
            numbers = {f"{name}/{key}": row[key] for key in COST if row[key] is not None}
            run.wandb.evaluation(row, {**task.numbers(row), **numbers}, table)
        except OSError as error:
            run.failure = error
    title = name if row.get("kind") == "prompts" else name.replace("_", " ")
    progress.line(f"{title} after {point.stage.name}: {task.sentence(row)}")
