"""The loop: draw a batch, take a step, write it down; at the end of a stage evaluate and save."""

import json
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from data.loader import GlobalBatch
from model.layer_pattern import expand_pattern
from parallel.mesh import Mesh
from parallel.watch.waiting import waiting
from train.checkpoint import Checkpoints, RunState, write_durably
from train.config import RunConfig
from train.evaluate import HeldOut, evaluate
from train.progress import Progress, number
from train.run_log import RunLog, finite
from train.schedule import Point, Schedule, Stage
from train.step import StepResult, optimizer_step, what_was_seen
from train.stop_signal import StopSignal
from train.stragglers import Stragglers
from train.supervisor import Supervisor
from train.trainer import Trainer
from train.wandb_log import WandbLog


class NonFiniteStep(ValueError):
    """Loss or gradient was not finite more often than the configuration allows."""


@dataclass
class Run:
    """Everything a running job holds. Built once by `train/build.py`."""

    config: RunConfig
    folder: Path
    # Mesh, trainer and held-out share belong to the layout of the stage: see `train/build.py: reform`.
    mesh: Mesh
    schedule: Schedule
    trainer: Trainer
    state: RunState
    checkpoints: Checkpoints
    held_out: Callable[[Stage], HeldOut] | None
    # Main rank only: None elsewhere.
    log: RunLog | None = None
    wandb: WandbLog | None = None
    # Main rank only: why a log could not be written. The other ranks learn of it with the next step.
    failure: OSError | None = None
    stragglers: Stragglers | None = None
    # None where nobody watches: in tests of the loop alone.
    supervisor: Supervisor | None = None

    def phase(self, name: str) -> None:
        """Say what the run does from now on."""
        if self.supervisor is not None:
            self.supervisor.phase(name)

    @property
    def total_tokens(self) -> int:
        """Stream tokens when the run is over: the schedule's, or those of train.max_steps."""
        most, state = self.config.train.max_steps, self.state
        left = None if most is None else max(0, most - state.step)
        shapes = islice(self.schedule.shapes(state.tokens_seen), left)
        return state.tokens_seen + sum(shape.batch_tokens for shape in shapes)

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return is_over(self.config, self.schedule, self.state)


def train(run: Run, batches: Iterable[GlobalBatch], progress: Progress, signal: StopSignal) -> bool:
    """Run to the end of the batches; returns False if `signal`, on any rank, ended it before.

    Raises:
        NonFiniteStep: see `train.max_skipped_steps`; the weights are those of the step before.
        OSError: a log or a checkpoint could not be written; on every rank.
    """
    drawn = time.perf_counter()
    for index, batch in enumerate(_drawn(batches)):
        run.phase(f"step {run.state.step + 1}")
        point = run.schedule.at(run.state.tokens_seen)
        waited = time.perf_counter() - drawn
        result = optimizer_step(
            run.trainer,
            run.mesh,
            batch,
            point=point,
            model=run.config.model,
            stop=signal.requested or run.failure is not None,
        )
        if index == 0 and run.supervisor is not None:
            run.supervisor.first_step_done()
        if result.stop_votes:
            run.mesh.together(lambda: _raise(run.failure))
        if not result.applied:
            _skip_or_stop(run, batch, result)
        _advance(run, batch, point)
        row = _metrics(run, batch, point, result, waited, time.perf_counter() - drawn)
        _compare_ranks(run, row, progress)
        _write(run, row)
        progress.step(row)
        stopping = result.stop_votes > 0
        _evaluate_and_save(run, point, progress, stopping=stopping)
        if stopping and not run.is_over:
            return False
        drawn = time.perf_counter()
    run.checkpoints.wait()
    run.mesh.together(lambda: _raise(run.failure))
    # A signal that came too late for a vote in the last step: the stage's checkpoint is there already.
    return run.is_over or not any(run.mesh.gather_objects(signal.requested))


def _drawn(batches: Iterable[GlobalBatch]) -> Iterator[GlobalBatch]:
    """The batches; while one is not ready, the watch knows what this rank waits for."""
    iterator = iter(batches)
    while True:
        with waiting("", "its next batch from the loader"):
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


def _evaluate_and_save(run: Run, point: Point, progress: Progress, *, stopping: bool) -> None:
    """What is due after a step. Evaluation comes first, so that a checkpoint is never without its row;
    but whoever asked to stop may not wait for both."""
    step, config = run.state.step, run.config
    stage_is_over = run.state.tokens_seen >= point.stage.end or run.is_over
    if stopping:
        _save(run)
        run.checkpoints.wait()
    if stage_is_over or _due(config.evaluation.every_steps, step):
        _evaluate(run, point, progress)
    if not stopping and (stage_is_over or _due(config.checkpoint.every_steps, step)):
        _save(run)


def is_over(config: RunConfig, schedule: Schedule, state: RunState) -> bool:
    """Whether a run that stands at `state` has no step left."""
    most = config.train.max_steps
    done = most is not None and state.step >= most
    return done or state.tokens_seen >= schedule.total_tokens


def _save(run: Run) -> None:
    run.phase("checkpoint")
    if run.log is not None:
        run.log.sync()
    run.checkpoints.save(run.trainer.engine, run.state)


def _raise(failure: OSError | None) -> None:
    if failure is not None:
        raise failure


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _advance(run: Run, batch: GlobalBatch, point: Point) -> None:
    state = run.state
    state.step += 1
    state.tokens_seen += batch.shape.batch_tokens
    state.stage = point.stage.name
    state.cursor = batch.cursor
    state.rope_base = bases_by_kind(run.config, point.rope_base)


def bases_by_kind(config: RunConfig, base: float) -> dict[str, float]:
    """The base of each kind of rotary layer that the model has."""
    kinds = {"window" if s.window else "full" for s in expand_pattern(config.model) if s.rotary}
    return dict.fromkeys(sorted(kinds), base)


def _skip_or_stop(run: Run, batch: GlobalBatch, result: StepResult) -> None:
    step = run.state.step + 1
    seen = what_was_seen(run.mesh, batch, result, step)
    path = run.folder / f"nonfinite_step_{step:08d}.json"
    if run.mesh.is_main:
        write_durably(path, json.dumps(seen, indent=1))
    run.state.skipped_steps += 1
    if run.state.skipped_steps > run.config.train.max_skipped_steps:
        raise NonFiniteStep(
            f"step {step}: loss {result.loss}, gradient norm {result.gradient_norm}: not finite, the "
            f"weights were not touched; {path} names ranks and documents; skip up to N such steps with "
            "train.max_skipped_steps=N, or lower the learning rate"
        )


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
        "peak_memory_bytes": _peak_memory(run.mesh.device),
        "skipped": not result.applied,
        "seconds": {"data": waited, **result.seconds},
    }
    if result.received is not None:
        row["sequence_bytes_received"] = result.received
    if run.config.train.z_loss:
        row["z_loss"] = result.z_loss
    cleaned: dict[str, Any] = finite(row)
    return cleaned


def _compare_ranks(run: Run, row: dict[str, Any], progress: Progress) -> None:
    """Now and then: which rank is slow. Collective."""
    if run.stragglers is None:
        return
    found, lines = run.stragglers.step(row["seconds"]["data"])
    if found is not None:
        row["stragglers"] = found
    for line in lines:
        progress.line(line)


def _peak_memory(device: torch.device) -> int:
    """Most memory this rank ever held: of its GPU, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _write(run: Run, row: dict[str, Any]) -> None:
    if run.log is None or run.wandb is None:
        return
    try:
        run.log.step(row)
        run.wandb.step(row)
    except OSError as error:
        run.failure = error


def _evaluate(run: Run, point: Point, progress: Progress) -> None:
    if run.held_out is None:
        return
    run.phase("evaluation")
    result = evaluate(run.trainer, run.mesh, run.held_out(point.stage), point.rope_base)
    row = {
        "step": run.state.step,
        "stage": point.stage.name,
        "tokens_seen": run.state.tokens_seen,
        **finite(result),
    }
    if run.log is not None and run.wandb is not None:
        try:
            run.log.evaluation(row)
            run.wandb.evaluation(row)
        except OSError as error:
            run.failure = error
    progress.line(
        f"held out after {point.stage.name}: loss {number(row['loss'])} over {row['tokens']:,} tokens at "
        f"length {row['sequence_length']:,} (bigram {number(row['bigram_loss'])}, unigram "
        f"{number(row['unigram_loss'])}); first quarter {number(row['first_quarter_loss'])}, last quarter "
        f"{number(row['last_quarter_loss'])}"
    )
