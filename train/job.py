"""One job from its first collective to its closing words."""

import errno
import sys
from datetime import UTC, datetime
from pathlib import Path

from data.loader import Loader
from model.attention_core import choose_core
from model.flops import parameter_count
from parallel import mesh as world
from parallel.checkpoint import DamagedCheckpoint
from parallel.config import ParallelConfig
from parallel.deepspeed_settings import DTYPES
from parallel.mesh import Mesh
from parallel.timeouts import Timeouts
from train import build, validate
from train.closing import closing_words
from train.config import RunConfig
from train.determinism import make_deterministic
from train.loop import NonFiniteStep, Run, is_over, train
from train.progress import Progress
from train.refusal import FAILURE, STOPPED, refuse, refuse_alone
from train.report import write_report
from train.run_log import write_summary
from train.schedule import build_schedule
from train.stop_signal import StopSignal
from train.supervisor import Supervisor


def run_job(config: RunConfig) -> int:
    """Start the world, train, end the world. Returns the exit status."""
    if config.train.deterministic:
        make_deterministic()
    try:
        device = world.choose_device(config.train.device)
        choose_core(config.model.attention_backend, device, DTYPES[config.train.precision])
        mesh = world.start(device, _timeouts(config.parallel))
    except ValueError as error:
        return refuse_alone(str(error))
    with Supervisor(mesh, build.run_folder(config)) as supervisor:
        status = _supervised(config, mesh, supervisor)
    world.stop()
    return status


def _timeouts(parallel: ParallelConfig) -> Timeouts:
    return Timeouts(parallel.timeout_seconds, parallel.timeouts, parallel.first_step_seconds)


def _supervised(config: RunConfig, mesh: Mesh, supervisor: Supervisor) -> int:
    try:
        return _train(config, mesh, supervisor)
    except OSError as error:
        if not _disk_is_full(error):
            raise
        return refuse(
            [
                f"no space left for {config.paths.outputs} ({error}); free some and start the same "
                "command again: it goes on from the last complete checkpoint"
            ],
            FAILURE,
        )


def _disk_is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def _train(config: RunConfig, mesh: Mesh, supervisor: Supervisor) -> int:
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    try:
        supervisor.phase("data preparation")
        corpus = build.prepare_corpus(config, mesh)
        resume, state = build.start_state(config, mesh, schedule=schedule, corpus=corpus)
        if is_over(config, schedule, state):
            if mesh.is_main:
                folder = build.run_folder(config)
                if not (folder / "report.html").exists():
                    write_report(folder)
                sys.stdout.write(closing_words(folder, state, finished=True))
            return 0
        first = schedule.stage_at(state.tokens_seen)
        mesh = world.arrange(mesh.world, first.parallel.topology(mesh.world_size))
        supervisor.phase("building the model")
        run = build.build_run(
            config, mesh, schedule=schedule, corpus=corpus, state=state, resume=resume
        )
        run.supervisor = supervisor
        loader = build.build_loader(run, corpus)
    except ValueError as error:
        supervisor.refused(str(error))
        return refuse(str(error).splitlines())
    started = datetime.now(UTC)
    progress = Progress(
        schedule,
        tokens_seen=run.state.tokens_seen,
        total_tokens=run.total_tokens,
        seconds=config.logging.console_seconds,
        speaks=mesh.is_main,
        log=run.folder / "log.txt",
    )
    for line in _opening_words(run, resume):
        progress.line(line)
    finished, failure = True, ""
    with progress, StopSignal() as signal:
        try:
            finished = _train_leg(run, loader, progress, signal)
            while finished and not run.is_over:
                supervisor.phase("layout change")
                supervisor.layout_changes()
                build.reform(run, corpus)
                progress.line(f"{config.run_name}: now {_describe_layout(run)}")
                finished = _train_leg(run, build.build_loader(run, corpus), progress, signal)
        except (NonFiniteStep, DamagedCheckpoint) as error:
            failure = str(error)
    run.checkpoints.close()
    _close_logs(run, started, failed=bool(failure))
    if failure:
        supervisor.refused(failure)
        return refuse([failure], FAILURE)
    if mesh.is_main:
        sys.stdout.write(closing_words(run.folder, run.state, finished=finished))
    return 0 if finished else STOPPED


def _train_leg(run: Run, loader: Loader, progress: Progress, signal: StopSignal) -> bool:
    """Train while the layout stays; returns False if a signal ended it."""
    with loader:
        return train(run, loader, progress, signal)


def _describe_layout(run: Run) -> str:
    """The grid, in words: only what is more than one."""
    parallel = run.schedule.stage_at(run.state.tokens_seen).parallel
    axes = [f"{axis} {size}" for axis, size in run.mesh.topology.sizes.items() if size > 1]
    grid = f" ({' x '.join(reversed(axes))})" if axes else ""
    return (
        f"{run.mesh.world_size} rank(s){grid} on {run.mesh.device.type}, ZeRO-{parallel.zero_stage}"
    )


def _opening_words(run: Run, resume: Path | None) -> list[str]:
    config, schedule = run.config, run.schedule
    stages = " -> ".join(f"{s.name} {s.shape.sequence_length:,}" for s in schedule.stages)
    lines = [
        f"{config.run_name}: {build.describe_model(config.model)}",
        f"{config.run_name}: {_describe_layout(run)}, {config.train.precision}; {stages}; "
        f"{run.total_tokens:,} tokens",
    ]
    lines += [f"warning: {warning}" for warning in validate.warnings(config, schedule)]
    if resume is not None:
        lines.append(
            f"going on from {resume}: step {run.state.step:,}, {run.state.tokens_seen:,} tokens seen"
        )
    return lines


def _close_logs(run: Run, started: datetime, *, failed: bool) -> None:
    if run.wandb is not None:
        run.wandb.close(failed=failed)
    if run.log is None:
        return
    run.log.close()
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
            "complete": run.is_over,
            "versions": run.state.versions,
        },
    )
    if run.state.step:
        write_report(run.folder)
