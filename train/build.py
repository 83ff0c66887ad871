"""Builds a `Run` and its batches from a validated configuration.

Errors of corpus, checkpoint and disk are raised here, before the engine exists.
"""

import dataclasses
import gc
import platform
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import torch

from data.batch import RankReader
from data.loader import Loader
from data.packing.planner import BatchPlanner
from data.sources import Corpus, make_corpus, open_corpus
from model.parameters import parameter_names
from model.peak_flops import peak_flops
from parallel.checkpoint import tensors as checkpoint_tensors
from parallel.engine.groups import groups_of
from parallel.engine.training import StepCounts, Training
from parallel.mesh import Mesh, arrange
from train.build_trainer import build_trainer, dealer
from train.checkpointing import folder as checkpoint_folder
from train.checkpointing.checkpoint import Checkpoints, verify
from train.checkpointing.continuation import (
    data_identity,
    find_resume,
    last_point,
    obstacles,
    tokenizer_identity,
)
from train.checkpointing.resume import sound_checkpoint
from train.checkpointing.state import RunState, read_index, read_state
from train.configuration import compose
from train.configuration.schema import RunConfig, run_folder
from train.evaluation.tasks import Task, make_tasks
from train.health.stragglers import Stragglers
from train.huggingface.kept_files import carry_into_run
from train.records.console import say
from train.records.metrics_log import RunLog, write_config
from train.records.wandb_log import WandbLog
from train.run import Run
from train.schedule.stages import Schedule, Stage
from train.trainer import Trainer


def prepare_corpus(config: RunConfig, mesh: Mesh) -> Corpus:
    """Makes the embedded corpus if configured, checks every file once per run, opens it on every rank.

    Raises:
        ValueError, OSError: on every rank, the reason of the first rank that has one.
    """

    def make_and_check() -> None:
        if mesh.is_main:
            make_corpus(config.data, config.paths.prepared, config.model.vocab_size)
            open_corpus(config.data, config.paths.prepared, config.model.vocab_size, check=True)

    mesh.together(make_and_check)
    return open_prepared(config, mesh)


def open_prepared(config: RunConfig, mesh: Mesh) -> Corpus:
    """Opens on every rank a corpus that has been made and checked.

    Raises:
        ValueError, OSError: on every rank, the reason of the first rank that has one.
    """
    return mesh.together(
        lambda: open_corpus(
            config.data, config.paths.prepared, config.model.vocab_size, check=False
        )
    )


def start_state(
    config: RunConfig, mesh: Mesh, *, schedule: Schedule, corpus: Corpus
) -> tuple[Path | None, RunState]:
    """Returns the checkpoint to resume from, with every byte verified, and its state. Collective.

    Raises:
        ValueError: on every rank, why the run cannot start there; one line per difference.
    """
    resume = sound_checkpoint(
        lambda: find_resume(config),
        run_folder(config) / "checkpoints",
        mesh,
        lambda line: say(line, run_folder(config) / "log.txt") if mesh.is_main else None,
    )

    def look() -> RunState:
        return load_state(config, schedule, corpus, resume) if mesh.is_main else RunState()

    state: RunState = mesh.broadcast_object(mesh.together(look))
    return resume, state


def load_state(
    config: RunConfig, schedule: Schedule, corpus: Corpus, path: Path | None
) -> RunState:
    """Returns the state to start from: of the checkpoint at `path`, or of a fresh run if it is None.

    Raises:
        ValueError: the checkpoint has another model, data or schedule; one line per difference.
    """
    identity = data_identity(config, corpus.sources)
    if path is None:
        fresh = RunState(model=dataclasses.asdict(config.model), data=identity)
        fresh.tokenizer = tokenizer_identity(corpus.sources)
    else:
        fresh = read_state(path)
        wrong = obstacles(config, schedule, fresh, corpus.sources)
        if wrong:
            raise ValueError("\n".join(f"checkpoint {path.name}: {line}" for line in wrong))
        if fresh.data != identity:  # allowed: the cursor is not valid for other data
            fresh.cursor = {}
        fresh.data = identity
        fresh.model = dataclasses.asdict(last_point(schedule, fresh).model)
        if corpus.sources[0].tokenizer_sha256:
            fresh.tokenizer = tokenizer_identity(corpus.sources)
    fresh.optimizer = config.optimizer.name
    return fresh


def build_run(
    config: RunConfig,
    mesh: Mesh,
    *,
    schedule: Schedule,
    corpus: Corpus,
    state: RunState,
    resume: Path | None,
    stage: Stage | None = None,
) -> Run:
    """Builds engine, logs and checkpoints at `state`, with the tensors of `resume`; None: initial weights.

    stage: has the layout of the run for now; None: the stage of the step to come.

    Raises:
        ValueError: the checkpoint's tensors do not fit or are damaged, or W&B raised an error.
        RuntimeError: torch or DeepSpeed could not build the engine.
    """
    folder = run_folder(config)
    stage = stage or schedule.stage_at(state.tokens_seen)
    mesh.together(lambda: carry_into_run(resume, folder) if mesh.is_main else None)
    run = Run(
        config=config,
        folder=folder,
        mesh=mesh,
        schedule=schedule,
        trainer=_trainer(config, mesh, schedule, stage, state, resume),
        state=state,
        checkpoints=Checkpoints(folder / "checkpoints", config.checkpoint.keep, mesh),
        tasks=_tasks(config, mesh, corpus, stage),
        peak_flops=_peak_flops(config, mesh.device),
        stragglers=Stragglers(
            mesh, config.logging.straggler_steps, config.logging.straggler_factor
        ),
    )
    _note_layout(run, stage)
    run.log, run.wandb = mesh.together(lambda: _open_logs(config, mesh, folder, state.step))
    if run.wandb is not None:
        run.wandb.abandoned_steps = state.abandoned_steps
    return run


def reform(run: Run, corpus: Corpus) -> None:
    """Changes to the layout and frozen groups of the stage that begins now, through the checkpoint. Collective.

    The processes stay; rank grid, engine and pipeline are built again, and the tensors are read from the
    checkpoint, which any layout can read: a run that is killed here and started again does exactly the same.

    Raises:
        CheckpointFailed: the checkpoint could not be written.
        DamagedCheckpoint: a file of the checkpoint differs from what was written.
    """
    run.checkpoints.require()
    folder = run.mesh.broadcast_object(checkpoint_folder.latest(run.folder / "checkpoints"))
    rebuild(run, corpus, folder)


def rebuild(run: Run, corpus: Corpus, folder: Path) -> None:
    """Builds rank grid, engine and tasks for the stage of `run.state`, from the checkpoint `folder`. Collective.

    The old engine is freed before the new one is built.

    Raises:
        DamagedCheckpoint: a file in `folder` differs from what was written.
    """
    verify(
        folder,
        run.mesh,
        lambda line: say(line, run.folder / "log.txt") if run.mesh.is_main else None,
    )
    stage = run.schedule.stage_at(run.state.tokens_seen)
    run.trainer.engine.close()
    del run.trainer  # DeepSpeed holds reference cycles, which only garbage collection frees
    run.tasks = {}
    gc.collect()
    if run.mesh.device.type == "cuda":
        torch.cuda.empty_cache()
    run.mesh = arrange(run.mesh.world, stage.parallel.topology(run.mesh.world_size))
    run.trainer = _trainer(run.config, run.mesh, run.schedule, stage, run.state, folder)
    run.tasks = _tasks(run.config, run.mesh, corpus, stage)
    _note_layout(run, stage)


def _trainer(
    config: RunConfig,
    mesh: Mesh,
    schedule: Schedule,
    stage: Stage,
    state: RunState,
    resume: Path | None,
) -> Trainer:
    leg = schedule.leg(stage.start)
    names = parameter_names(config.model, range(config.model.num_layers))
    training = Training(
        groups_of(names, config.model, config.optimizer.groups),
        leg[0].groups,
        StepCounts(state.optimizer_steps, state.other_optimizer_steps),
    )
    # Its windows and length decide how a pipeline divides the layers; parameters are those of every stage.
    longest = max(leg, key=lambda stage: stage.shape.sequence_length)
    try:
        trainer = build_trainer(
            dataclasses.replace(config, model=schedule.at_end_of(longest).model),
            mesh,
            leg[0].parallel,
            sequence_length=longest.shape.sequence_length,
            picture=run_folder(config) / f"pipeline_{leg[0].name}.svg",
            training=training,
        )
    except ValueError as error:  # not a user mistake: keep its traceback
        raise RuntimeError("the engine could not be built") from error
    if resume is not None:
        index = mesh.together(lambda: read_index(resume))
        checkpoint_tensors.read(trainer.engine, resume, index, steps=training.steps)
        for line in training.changes(names) if mesh.is_main else []:
            say(f"{config.run_name}: {line}", run_folder(config) / "log.txt")
    return trainer


def _peak_flops(config: RunConfig, device: torch.device) -> float | None:
    """Returns the peak FLOP/s of one device of the run; None if unknown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return config.train.peak_flops_per_second or peak_flops(name, config.train.precision)


def _note_layout(run: Run, stage: Stage) -> None:
    run.state.layout = {
        "world_size": run.mesh.world_size,
        **dataclasses.asdict(stage.parallel),
        "precision": run.config.train.precision,
    }
    run.state.versions = versions()


def _open_logs(
    config: RunConfig, mesh: Mesh, folder: Path, step: int
) -> tuple[RunLog | None, WandbLog | None]:
    if not mesh.is_main:
        return None, None
    write_config(folder, compose.to_yaml(config), step)
    log = RunLog(folder, first_step=step)
    settings = dataclasses.asdict(config)
    return log, WandbLog(
        config.logging.wandb, folder=folder, run_name=config.run_name, settings=settings
    )


def build_loader(run: Run, corpus: Corpus) -> Loader:
    """Returns the batches from the run's state to its end, or to the end of its leg: see `Schedule.leg`."""
    planner = BatchPlanner(
        corpus.sources,
        seed=run.config.data.seed,
        method=run.config.data.packing,
        look_ahead=run.config.data.look_ahead,
    )
    if run.state.cursor:
        try:
            planner.load_state_dict(run.state.cursor)
        except KeyError as error:
            raise ValueError(
                f"checkpoint: its place in the data lacks {error}; start a new run"
            ) from error
    most = run.config.train.max_steps
    steps = None if most is None else max(0, most - run.state.step)
    leg, long_ce = run.schedule.leg(run.state.tokens_seen), run.config.train.long_ce
    shapes = run.schedule.shapes(run.state.tokens_seen, until=leg[-1].end)
    reader = RankReader(
        corpus.sources,
        corpus.eos_id,
        run.mesh.dp_rank,
        run.mesh.dp_size,
        dealer(
            run.config.model,
            run.mesh,
            leg[0].parallel,
            () if long_ce is None else (long_ce.window_tokens,),
        ),
    )
    return Loader(planner, reader, islice(shapes, steps), run.config.data.prefetch)


def _tasks(config: RunConfig, mesh: Mesh, corpus: Corpus, stage: Stage) -> dict[str, Task]:
    deal = dealer(config.model, mesh, stage.parallel, config.evaluation.keys_at_most)
    return make_tasks(config, mesh, corpus, deal)


def versions() -> dict[str, str]:
    """Returns the package versions on which the numbers of a run depend."""
    found = {"python": platform.python_version()}
    for package in ("torch", "deepspeed", "flash-attn", "sentencepiece", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
