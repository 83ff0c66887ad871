"""The training loop: draw a batch, take a step, record it; evaluate and save when due."""

import dataclasses
import math
import time
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Any

from data.loader import GlobalBatch
from parallel.watch.waiting import waiting
from train.evaluating import due_tasks, evaluate, is_due
from train.health import bad_step, spikes
from train.health.measured import begin_measuring, measured_entries
from train.health.stop_signal import StopSignal
from train.records.console import Progress
from train.records.metrics_log import finite_or_null
from train.run import Run, raise_failure
from train.schedule.rope_base import bases_by_kind
from train.schedule.saving import steps_between_checkpoints
from train.schedule.stages import Point
from train.step import StepResult, optimizer_step, short_forward


class Ending(Enum):
    """Why `train` returned."""

    # No batch is left: the run is over, or its leg is, see `Schedule.leg`.
    OVER = auto()
    # A signal asked to stop; everything is saved.
    ASKED = auto()
    # Enough spikes in a row for a rollback: see train/rollback.py.
    SPIKED = auto()


def train(
    run: Run, batches: Iterable[GlobalBatch], progress: Progress, signal: StopSignal
) -> Ending:
    """Trains to the end of the batches, or until `signal` on any rank, or spikes, end it before.

    Raises:
        NonFiniteStep, LossSpike: see `train.max_skipped_steps`; the weights are those of the step before.
        RunFailed: on every rank: one of them could not read or write; the steps before are saved.
        CheckpointFailed: the last checkpoint, or the one of a requested stop, could not be written.
    """
    drawn = time.perf_counter()
    for index, batch in enumerate(_drawn(run, batches)):
        run.phase(f"step {run.state.step + 1}")
        point = run.schedule.at(run.state.tokens_seen)
        waited = time.perf_counter() - drawn
        limit = spikes.limit_of_step(run.state, point.stage.name, run.config.train.spikes)
        measured = begin_measuring(run.trainer, run.config.logging, run.state.step + 1)
        result = optimizer_step(
            run.trainer,
            run.mesh,
            batch,
            point=point,
            stop=signal.requested or run.failure is not None,
            limit=math.inf if run.config.train.spikes.action == "rollback" else limit,
            short=short_forward(run.config.train.long_ce, point),
        )
        if index == 0 and run.supervisor is not None:
            run.supervisor.first_step_done()
        if not result.applied or result.loss > limit:
            progress.line(_note(run, batch, result, limit))
        _advance(run, batch, point)
        taken = result.loss if result.applied else math.nan
        if (
            batch.valid_tokens or not result.applied
        ):  # without a valid token there is no loss to judge
            spikes.remember(run.state, taken, limit, run.config.train.spikes)
        row = _metrics(run, batch, point, result, waited, time.perf_counter() - drawn)
        row |= _of_spikes(run, result, limit)
        row |= measured_entries(measured, run.trainer, run.mesh, run.config.model)
        _compare_ranks(run, row, progress)
        _write(run, row)
        progress.step(row)
        if spikes.wants_back(run.state, run.config.train.spikes):
            return Ending.SPIKED
        stopping = result.stop_votes > 0
        stopping = _evaluate_and_save(run, point, progress, signal, stopping=stopping)
        for line in run.news():
            progress.line(line)
        if stopping:
            run.mesh.together(lambda: raise_failure(run.failure))
        if stopping and not run.is_over:
            return Ending.ASKED
        drawn = time.perf_counter()
    run.checkpoints.require()
    run.mesh.together(lambda: raise_failure(run.failure))
    # A signal too late for the last step's vote: the checkpoint of the stage is already written.
    if run.is_over or not any(run.mesh.gather_objects(signal.requested)):
        return Ending.OVER
    return Ending.ASKED


def _drawn(run: Run, batches: Iterable[GlobalBatch]) -> Iterator[GlobalBatch]:
    """Yields the batches, each drawn before the step on the one before it.

    So an error of reading is known in time for that step's vote, and no rank waits for one that has failed.
    """
    iterator = iter(batches)
    batch = _draw(run, iterator)
    run.mesh.together(lambda: raise_failure(run.failure))
    while batch is not None:
        following = _draw(run, iterator)
        yield batch
        batch = following


def _draw(run: Run, batches: Iterator[GlobalBatch]) -> GlobalBatch | None:
    """Returns the next batch; None after the last one, or after a reading error. Reports the wait to the watch."""
    try:
        with waiting("", "its next batch from the loader"):
            return next(batches, None)
    except (ValueError, OSError) as error:
        run.failure = error
        return None


def _evaluate_and_save(
    run: Run, point: Point, progress: Progress, signal: StopSignal, *, stopping: bool
) -> bool:
    """Evaluates and saves if due after a step; returns whether the run must stop. Evaluation comes first, so that no
    checkpoint lacks its rows; after a request to stop, saving comes first, since time may be short."""
    step, config = run.state.step, run.config
    stage_is_over = run.state.tokens_seen >= point.stage.end or run.is_over
    due = due_tasks(run.tasks, step, stage_is_over=stage_is_over)
    if stopping:
        run.state.due_evaluations = due
        run.save()
        run.checkpoints.require()
    asked = evaluate(run, due, point, progress, lambda: not stopping and signal.requested)
    saved = stopping or asked
    if not saved and (stage_is_over or is_due(steps_between_checkpoints(config), step)):
        run.save()
    return saved


def _advance(run: Run, batch: GlobalBatch, point: Point) -> None:
    state = run.state
    state.step += 1
    state.tokens_seen += batch.shape.batch_tokens
    state.stage = point.stage.name
    state.cursor = batch.cursor
    state.rope_base = bases_by_kind(point.model, point.rope_base)
    state.model = dataclasses.asdict(point.model)
    state.document_rules = dataclasses.asdict(batch.shape.rules)
    state.lengths = list(point.lengths)
    state.context_length = max(state.context_length, batch.shape.position_length)


def _note(run: Run, batch: GlobalBatch, result: StepResult, limit: float) -> str:
    state, config = run.state, run.config.train
    return bad_step.note(
        run.mesh, run.folder, batch, result, limit=limit, state=state, config=config
    )


def _of_spikes(run: Run, result: StepResult, limit: float) -> dict[str, Any]:
    """Returns the entries of a row about a skipped step, and about spikes if they are detected."""
    row: dict[str, Any] = {}
    if not result.applied:
        row["skipped_because"] = "spike" if bad_step.is_spike(result, limit) else "not finite"
    if run.config.train.spikes.action != "ignore":
        row["spikes"] = {
            "limit": limit if math.isfinite(limit) else None,
            "in_a_row": run.state.spiking_steps,
            "rollbacks": run.state.rollbacks,
        }
    return row


def _metrics(
    run: Run, batch: GlobalBatch, point: Point, result: StepResult, waited: float, seconds: float
) -> dict[str, Any]:
    tokens = batch.shape.batch_tokens
    row: dict[str, Any] = {
        "step": run.state.step,
        "stage": point.stage.name,
        "tokens_seen": run.state.tokens_seen,
        "valid_tokens": batch.valid_tokens,
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "learning_rate": point.learning_rate,
        "rope_base": point.rope_base,
        "sequence_length": batch.shape.sequence_length,
        "batch_tokens": tokens,
        "padding_fraction": batch.padding_tokens / tokens,
        "step_seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "model_flops_per_second": result.flops / seconds,
        "peak_memory_bytes": run.memory.of_training(run.mesh.device),
        "skipped": not result.applied,
        "checkpoint_failures": run.checkpoints.failures,
        "seconds": {"data": waited, **result.seconds},
    }
    if result.received is not None:
        row["sequence_bytes_received"] = result.received
    if point.windows:
        row["windows"] = point.keys_seen
    if run.config.train.z_loss:
        row["z_loss"] = result.z_loss
    if run.config.train.long_ce is not None:
        row["long_ce_loss"] = result.weighted_loss
    if run.peak_flops is not None:
        row["mfu"] = row["model_flops_per_second"] / (run.peak_flops * run.mesh.world_size)
    names = [name for name, _ in run.state.data["sources"]]
    found = zip(names, batch.valid_by_source, result.loss_by_source, strict=True)
    row["sources"] = {name: {"tokens": valid, "loss": loss} for name, valid, loss in found}
    row["source_shares"] = {
        name: source["tokens"] / max(1, batch.valid_tokens)
        for name, source in row["sources"].items()
    }
    cleaned: dict[str, Any] = finite_or_null(row)
    return cleaned


def _compare_ranks(run: Run, row: dict[str, Any], progress: Progress) -> None:
    """Adds the comparison of ranks to `row` if it is due, and reports slow ranks. Collective."""
    if run.stragglers is None:
        return
    found, lines = run.stragglers.step(row["seconds"]["data"])
    if found is not None:
        row["stragglers"] = found
    for line in lines:
        progress.line(line)


def _write(run: Run, row: dict[str, Any]) -> None:
    if run.log is None or run.wandb is None:
        return
    try:
        run.log.step(row)
        run.wandb.step(row)
    except OSError as error:
        run.failure = error
