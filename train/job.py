"""Runs one job, from the start of the world to the final report."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import torch

from data.files import reason
from data.loader import Loader
from data.sources import Corpus
from model.attention.core import choose_core
from model.flops import parameter_count
from parallel import mesh as world
from parallel.checkpoint.index import DamagedCheckpoint
from parallel.config import ParallelConfig
from parallel.engine.settings import DTYPES
from parallel.mesh import Mesh
from parallel.pipeline.runner import unnoted_waits
from parallel.rendezvous.meeting import Meeting
from parallel.timeouts import Timeouts
from train import build
from train.checkpointing.checkpoint import CheckpointFailed
from train.checkpointing.continuation import last_point
from train.checkpointing.state import RunState
from train.configuration import validate
from train.configuration.description import (
    describe_groups,
    describe_labels,
    describe_model,
    describe_stages,
)
from train.configuration.schema import RunConfig, run_folder
from train.evaluating import cut_off, evaluate
from train.health.bad_step import LossSpike, NonFiniteStep
from train.health.determinism import make_deterministic
from train.health.exit_status import FAILURE, STOPPED, refuse, refuse_alone
from train.health.run_lock import hold_run
from train.health.stop_signal import StopSignal
from train.health.supervisor import Supervisor
from train.loop import Ending, train
from train.preflight import check as preflight
from train.preflight.joining import joining
from train.records.closing_words import closing_words, words_after_failure
from train.records.console import Progress, say, say_last
from train.records.kept_configuration import keep_configuration
from train.records.metrics_log import write_summary
from train.records.starts import add_start
from train.report.refresh import LivePage
from train.rollback import roll_back
from train.run import Run, RunFailed, is_over
from train.schedule.stages import Schedule, build_schedule


def run_job(
    config: RunConfig,
    meeting: Meeting | None = None,
    own_files: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Starts the world, trains, ends the world. Returns the exit status.

    own_files: texts of the user's own configuration files, which the run keeps.
    """
    if config.train.deterministic:
        make_deterministic()
    try:
        mesh = start_world(config, meeting)
    except ValueError as error:
        return refuse_alone(str(error))
    with Supervisor(mesh, run_folder(config)) as supervisor:
        status = _train(config, mesh, supervisor, own_files)
    world.stop()
    return status


def run_preflight(config: RunConfig, meeting: Meeting | None = None) -> int:
    """Starts the world, runs the preflight, prints its findings, ends the world. Returns the exit status."""
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    try:
        mesh = start_world(config, meeting)
    except ValueError as error:
        return refuse_alone(str(error))
    try:
        verdict = preflight.check(config, mesh, schedule)
    except preflight.Unsound as error:
        if mesh.is_main:
            sys.stdout.write(error.verdict.tables)
        return preflight.refuse_unsound(error)
    if mesh.is_main:
        lines = [f"warning: {line}" for line in verdict.warnings] + [verdict.summary]
        sys.stdout.write("\n".join(lines) + f"\n\n{verdict.tables}")
    world.stop()
    return 0


def start_world(config: RunConfig, meeting: Meeting | None) -> Mesh:
    """Joins the world on this rank's device. Collective.

    Raises:
        ValueError: this host has no such device, or the rendezvous failed.
    """
    device = choose_hardware(config)
    with joining(meeting, config.preflight.join_seconds):
        return world.start(device, _timeouts(config.parallel), meeting=meeting)


def choose_hardware(config: RunConfig) -> torch.device:
    """Returns the device of this rank.

    Raises:
        ValueError: this host has no such device, or no attention backend for it.
    """
    device = world.choose_device(config.train.device)
    choose_core(
        config.model.attention_backend,
        device,
        DTYPES[config.train.precision],
        config.model.head_dim,
        config.model.attention_softcap,
    )
    return device


def _timeouts(parallel: ParallelConfig) -> Timeouts:
    return Timeouts(
        parallel.timeout_seconds, dict(parallel.timeouts.items()), parallel.first_step_seconds
    )


def _train(
    config: RunConfig, mesh: Mesh, supervisor: Supervisor, own_files: Mapping[str, str]
) -> int:
    """Opens the run, trains it leg by leg, closes it. Returns the exit status."""
    try:
        opened = _open(config, mesh, supervisor, own_files)
    except preflight.Unsound as error:
        supervisor.refused(str(error))
        return preflight.refuse_unsound(error)
    except ValueError as error:
        supervisor.refused(str(error))
        return refuse(str(error).splitlines())
    except OSError as error:
        failure = f"{reason(error)}; mend that and start the same command again"
        supervisor.refused(failure)
        return refuse([failure], FAILURE)
    if opened is None:
        return 0
    started = datetime.now(UTC)
    ending, failure = _train_legs(opened, supervisor)
    supervisor.no_step_expected()
    supervisor.phase("closing")
    failure = _close(opened, started, failure)
    if failure:
        supervisor.refused(failure)
        refuse([failure], FAILURE)
        if mesh.is_main:
            sys.stderr.write(words_after_failure(config))
        return FAILURE
    if mesh.is_main:
        finished = ending is Ending.OVER
        words = closing_words(config, opened.run.state, finished=finished)
        say_last(words, run_folder(config) / "log.txt")
    if opened.lock is not None:
        opened.lock.close()
    return STOPPED if ending is Ending.ASKED else 0


@dataclass(frozen=True)
class _Opened:
    """A run that is ready for its first step."""

    run: Run
    corpus: Corpus
    # Batches of the first leg.
    loader: Loader
    progress: Progress
    # Lock file of the main rank, held until the run ends; None if the file system has no locks.
    lock: TextIO | None


def _open(
    config: RunConfig, mesh: Mesh, supervisor: Supervisor, own_files: Mapping[str, str]
) -> _Opened | None:
    """Does everything before the first step; None if the run is already over, which is printed. Collective.

    Raises:
        Unsound, ValueError, OSError: on every rank, why the run cannot start.
    """
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    supervisor.phase("preflight and data preparation")
    lock = mesh.together(lambda: _lock(run_folder(config)) if mesh.is_main else None)
    corpus = _checked_corpus(config, mesh, schedule)
    resume, state = build.start_state(config, mesh, schedule=schedule, corpus=corpus)
    due = cut_off(state, resume, run_folder(config), mesh)
    if is_over(config, schedule, state) and not due:
        if mesh.is_main:
            _say_over(config, state)
        return None
    last = last_point(schedule, state)
    first = last.stage if due else schedule.stage_at(state.tokens_seen)
    mesh = world.arrange(mesh.world, first.parallel.topology(mesh.world_size))
    supervisor.phase("building the model")
    changes = mesh.together(lambda: _keep_configuration(config, mesh, own_files, state.step))
    run = build.build_run(
        config, mesh, schedule=schedule, corpus=corpus, state=state, resume=resume, stage=first
    )
    run.supervisor = supervisor
    progress = Progress(
        schedule,
        tokens_seen=state.tokens_seen,
        total_tokens=run.total_tokens,
        seconds=config.logging.console_seconds,
        speaks=mesh.is_main,
        log=run.folder / "log.txt",
    )
    for line in [*_opening_words(run, corpus, resume), *changes, *_open_records(run, corpus)]:
        progress.line(line)
    if due:
        evaluate(run, [name for name in due if name in run.tasks], last, progress, lambda: False)
        if schedule.leg(state.tokens_seen) != schedule.leg(first.start):
            assert resume is not None, "a new run has no evaluation to complete"
            build.rebuild(run, corpus, resume)
    return _Opened(run, corpus, build.build_loader(run, corpus), progress, lock)


def _keep_configuration(
    config: RunConfig, mesh: Mesh, own_files: Mapping[str, str], step: int
) -> list[str]:
    if not mesh.is_main:
        return []
    return keep_configuration(run_folder(config), config, own_files, step)


def _lock(folder: Path) -> TextIO | None:
    return hold_run(folder, lambda line: say(line, folder / "log.txt"))


def _say_over(config: RunConfig, state: RunState) -> None:
    folder = run_folder(config)
    page = LivePage(folder)
    if not (folder / "report.html").exists():
        page.finish()
    for line in page.news():
        say(line, folder / "log.txt")
    say_last(closing_words(config, state, finished=True), folder / "log.txt")


def _train_legs(opened: _Opened, supervisor: Supervisor) -> tuple[Ending, str]:
    """Trains through all legs and rollbacks. Returns why training ended, and the failure or ""."""
    run, corpus, progress = opened.run, opened.corpus, opened.progress
    with progress, StopSignal() as signal:
        try:
            ending = _train_leg(run, opened.loader, progress, signal)
            while ending is Ending.SPIKED or (ending is Ending.OVER and not run.is_over):
                supervisor.no_step_expected()
                if ending is Ending.SPIKED:
                    supervisor.phase("rollback")
                    roll_back(run, corpus, progress.line)
                else:
                    supervisor.phase("layout change")
                    before = run.state.layout
                    build.reform(run, corpus)
                    if run.state.layout != before:  # else other parameters train, which a line said
                        progress.line(f"{run.config.run_name}: now {_describe_layout(run)}")
                ending = _train_leg(run, build.build_loader(run, corpus), progress, signal)
        except (NonFiniteStep, LossSpike, RunFailed, CheckpointFailed, DamagedCheckpoint) as error:
            return Ending.OVER, str(error)
    return ending, ""


def _close(opened: _Opened, started: datetime, failure: str) -> str:
    """Finishes the last checkpoint, the records and the report; returns the failure or "". Collective."""
    run = opened.run
    run.checkpoints.close()
    try:
        run.mesh.together(lambda: _close_logs(run, started, failure))
    except OSError as error:
        failure = failure or f"the run's last rows or its summary: {reason(error)}"
    for line in run.news():
        opened.progress.line(line)
    return failure


def _checked_corpus(config: RunConfig, mesh: Mesh, schedule: Schedule) -> Corpus:
    """Returns the corpus, after the preflight (if enabled) has passed. Collective."""
    if not config.preflight.enabled:
        return build.prepare_corpus(config, mesh)
    verdict = preflight.check(config, mesh, schedule)
    if mesh.is_main:
        for line in [*(f"warning: {warning}" for warning in verdict.warnings), verdict.summary]:
            say(line, run_folder(config) / "log.txt")
    return build.open_prepared(config, mesh)


def _train_leg(run: Run, loader: Loader, progress: Progress, signal: StopSignal) -> Ending:
    """Trains until the leg or the run ends: see `Schedule.leg`."""
    with loader:
        return train(run, loader, progress, signal)


def _describe_layout(run: Run) -> str:
    """Describes the rank grid: only the axes with more than one rank."""
    parallel = run.schedule.stage_at(run.state.tokens_seen).parallel
    axes = [f"{axis} {size}" for axis, size in run.mesh.topology.sizes.items() if size > 1]
    grid = f" ({' x '.join(reversed(axes))})" if axes else ""
    return (
        f"{run.mesh.world_size} rank(s){grid} on {run.mesh.device.type}, ZeRO-{parallel.zero_stage}"
    )


def _opening_words(run: Run, corpus: Corpus, resume: Path | None) -> list[str]:
    config, schedule = run.config, run.schedule
    lines = [
        f"{config.run_name}: {describe_model(config.model)}",
        f"{config.run_name}: {_describe_layout(run)}, {config.train.precision}; "
        f"{describe_stages(schedule)}; {run.total_tokens:,} tokens",
    ]
    described = describe_groups(config, schedule) + describe_labels(corpus.described)
    lines += [f"{config.run_name}: {line}" for line in described]
    lines += [f"warning: {warning}" for warning in validate.warnings(config, schedule)]
    pipelined = any(stage.parallel.pipeline > 1 for stage in schedule.stages)
    if pipelined and run.mesh.device.type == "cpu" and unnoted_waits():
        lines.append(f"warning: {unnoted_waits()}")
    if resume is not None:
        lines.append(
            f"going on from {resume}: step {run.state.step:,}, {run.state.tokens_seen:,} tokens seen"
        )
    return lines


def _open_records(run: Run, corpus: Corpus) -> list[str]:
    """On the main rank, records this start and writes the first report; returns warnings."""
    if not run.mesh.is_main:
        return []
    facts = {
        "step": run.state.step,
        "tokens_seen": run.state.tokens_seen,
        "total_tokens": run.total_tokens,
        "world_size": run.mesh.world_size,
        "device": run.mesh.device.type,
        "device_name": device_name(run.mesh.device),
        "versions": run.state.versions,
    }
    mix = {stage.name: stage.shape.weights for stage in run.schedule.stages}
    warning = add_start(run.folder, corpus, mix, facts)
    run.page = LivePage(run.folder)
    run.page.refresh()
    return [*([warning] if warning else []), *run.page.news()]


def device_name(device: torch.device) -> str:
    """Returns the product name of this rank's GPU; empty on a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _close_logs(run: Run, started: datetime, failure: str) -> None:
    if run.log is None or run.wandb is None:
        return
    try:
        run.log.close()
        _write_summary(run, started, failure)
        if run.page is not None:
            run.page.finish()
        run.wandb.file(run.folder / "report.html")
    finally:
        run.wandb.close(failed=bool(failure))


def _write_summary(run: Run, started: datetime, failure: str) -> None:
    write_summary(
        run.folder,
        {
            "parameters": parameter_count(run.config.model),
            "world_size": run.mesh.world_size,
            "device": run.mesh.device.type,
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "steps": run.state.step,
            "tokens_seen": run.state.tokens_seen,
            "skipped_steps": run.state.skipped_steps,
            "rollbacks": run.state.rollbacks,
            "complete": run.is_over,
            "failure": failure,
            "versions": run.state.versions,
        },
    )
