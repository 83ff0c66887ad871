"""Builds the model on this rank under DeepSpeed for one layout; a change of layout builds it again."""

import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path

from torch import Tensor

from data.batch import Dealer, Windows
from model.attention.core import choose_core
from model.attention.gate_sums import GateSums
from model.config import ModelConfig
from model.documents import Documents
from model.flops import parameter_count
from model.layer_pattern import expand_pattern, layer_kinds
from model.layer_sums import LayerSums
from model.parameters import parameter_names, shape_of
from model.reach import Reach
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.engine.engine import TrainingEngine
from parallel.engine.materialise import materialise
from parallel.engine.settings import DTYPES, zero_settings
from parallel.engine.training import ORDINARILY, Training
from parallel.mesh import Mesh
from parallel.parallelize import LocalModel, build_local, compile_stages, finish
from parallel.pipeline.placement import Placement
from parallel.pipeline.runner import PipelineRunner
from parallel.pipeline.schedule import TimedAction
from parallel.pipeline.timeline import timeline_table, write_timeline
from parallel.regions import regions_obstacle
from parallel.sequence.dealing import deal
from parallel.sequence.layout import SequenceShare, build_share
from parallel.sequence.traffic import TrafficMeter
from parallel.tensor.apply import initialise_cut
from train.configuration.schema import RunConfig
from train.objective import NextTokenLoss
from train.trainer import StagedTrainer, Trainer, WholeTrainer


def build_trainer(
    config: RunConfig,
    mesh: Mesh,
    parallel: ParallelConfig,
    *,
    sequence_length: int,
    picture: Path | None = None,
    training: Training = ORDINARILY,
) -> Trainer:
    """Returns the trainer of this rank: its part of the model with initial weights, and its engine.

    sequence_length: the longest of the stages to come, for which pipeline stages are balanced. picture: path for the
    drawing of one pipeline step, with a table of idle time beside it; None: no drawing. training: of these stages.
    """
    dtype, traffic = DTYPES[config.train.precision], TrafficMeter()
    core = choose_core(
        config.model.attention_backend,
        mesh.device,
        dtype,
        config.model.head_dim,
        config.model.attention_softcap,
    )
    local = build_local(
        config.model, core, mesh, parallel, sequence_length=sequence_length, traffic=traffic
    )
    settings = zero_settings(
        parallel,
        config.optimizer,
        precision=config.train.precision,
        num_parameters=parameter_count(config.model),
        device=mesh.device,
        num_trained=_num_trained(config.model, training),
    )
    initialise = partial(_initialise, config, mesh)
    for stage in local.stages:
        stage.keep_for_backward(config.train.keep_for_backward, config.train.recompute_layers)
        materialise(
            stage,
            initialise,
            device=mesh.device,
            dtype=dtype,
            zero3_settings=settings if parallel.zero_stage == 3 else None,
            mesh=mesh,
        )
    parameters, tied = finish(local, mesh, training)
    if compiles(config, mesh, parallel):
        compile_stages(local)
    trainer: Trainer
    z_loss = config.train.z_loss
    if mesh.pipeline.size == 1:
        objective = NextTokenLoss(local.stages[0], z_loss)
        engine = TrainingEngine(parameters, objective, mesh, config.optimizer, settings)
        trainer = WholeTrainer(engine, mesh, traffic)
    else:
        engine = TrainingEngine(parameters, local.module, mesh, config.optimizer, settings, tied)
        runner = _runner(local, mesh, engine, training)
        draw = partial(_draw, picture)
        trainer = StagedTrainer(engine, runner, mesh, traffic, z_loss=z_loss, draw=draw)
    _measure(trainer, local.stages, config, mesh)
    return trainer


def _runner(
    local: LocalModel, mesh: Mesh, engine: TrainingEngine, training: Training
) -> PipelineRunner:
    """Returns what runs this rank's stages of a pipeline."""
    differentiated = local.differentiated(training)
    return PipelineRunner(
        local.stages, local.placement, mesh, engine.after_backward, differentiated
    )


def _initialise(config: RunConfig, mesh: Mesh, name: str, tensor: Tensor) -> None:
    initialise_cut(name, tensor, config.model, config.seed, mesh.tensor)


def _num_trained(model: ModelConfig, training: Training) -> int:
    """Returns the number of elements that train, for the size of DeepSpeed's buffers of gradients."""
    names = parameter_names(model, range(model.num_layers))
    return sum(prod(shape_of(name, model)) for name in names if not training.is_frozen(name))


def _measure(
    trainer: Trainer, stages: Sequence[Transformer], config: RunConfig, mesh: Mesh
) -> None:
    """Gives the trainer and its layers the sums that measured steps need: of output gates if any layer has one."""
    model = config.model
    if any(spec.gate != "none" for spec in layer_kinds(model).values()):
        trainer.gate_sums = GateSums(model, mesh.device, mesh.tensor.rank, mesh.tensor.size)
        for stage in stages:
            stage.count_gates(trainer.gate_sums)
    if config.logging.layer_steps > 0:
        trainer.layer_sums = LayerSums(model.num_layers, mesh.device)
        for stage in stages:
            stage.measure_layers(trainer.layer_sums)


def compiles(config: RunConfig, mesh: Mesh, parallel: ParallelConfig) -> bool:
    """Returns whether the regions between attention calls are compiled (train.compile_regions)."""
    if config.train.compile_regions != "auto":
        return config.train.compile_regions == "always"
    # Triton builds the launchers of its kernels with a C compiler.
    tools = find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
    return mesh.device.type == "cuda" and tools and not regions_obstacle(parallel)


def _draw(
    path: Path | None, timed: Sequence[TimedAction], placement: Placement, micro_batches: int
) -> None:
    if path is None:
        return
    table = timeline_table(timed, placement, micro_batches)
    title = f"{placement.schedule}, {placement.ranks} pipeline ranks, {micro_batches} micro-batches"
    with suppress(OSError):  # a full disk must not end this rank alone
        write_timeline(path, timed, title)
        path.with_suffix(".txt").write_text(f"{title}\n{table}\n")


def dealer(
    model: ModelConfig, mesh: Mesh, parallel: ParallelConfig, keys_at_most: Collection[int] = ()
) -> Dealer | None:
    """Returns the function that assigns a stream to sequence ranks and plans the exchanges; None without them.

    keys_at_most: the limits of keys with which the stream has further forwards: see `AtStep`.
    """
    if mesh.sequence.size == 1:
        return None
    own = {kind: spec.reach for kind, spec in layer_kinds(model).items()}
    layers = Counter(spec.kind for spec in expand_pattern(model))

    def share_of(lengths: Sequence[int], windows: Windows) -> SequenceShare:
        reach_of = own | {
            kind: replace(own[kind], window=window or None) for kind, window in windows
        }
        layers_of_reach = Counter[Reach]()
        for kind, count in layers.items():
            layers_of_reach[reach_of[kind]] += count
        dealing = deal(parallel.sequence_layout, lengths, mesh.sequence.size, layers_of_reach)
        more = [reach.at_most(keys) for keys in keys_at_most for reach in reach_of.values()]
        documents = Documents.of(lengths)
        return build_share(dealing, documents, mesh.sequence.rank, reach_of, more=more)

    return share_of
