"""Whether the run's folder can be written, and has space for the checkpoints of the run."""

import os
import shutil
from math import prod
from pathlib import Path

from model.flops import parameter_count
from model.parameters import shape_of
from parallel.engine.groups import frozen_parameters
from parallel.engine.optimizers import OPTIMIZERS
from train.checkpointing import folder as checkpoint_folder
from train.configuration.schema import RunConfig
from train.schedule.groups import stage_groups


def room_problems(config: RunConfig) -> list[str]:
    """Returns why the run's folder cannot be written, or has too little space for its checkpoints."""
    try:
        return _room(config, Path(config.paths.outputs))
    except OSError as error:
        return [
            f"paths.outputs={config.paths.outputs}: cannot be read ({error.strerror}); point paths.outputs "
            "elsewhere"
        ]


def _room(config: RunConfig, outputs: Path) -> list[str]:
    folder = outputs.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return [
            f"paths.outputs={config.paths.outputs}: {folder} is not a folder that can be written; "
            "point paths.outputs elsewhere"
        ]
    if config.model.problems():
        return []  # reported with the model, which has no size yet
    needed = (config.checkpoint.keep + 1) * one_checkpoint_bytes(config)
    there = checkpoint_folder.complete(outputs / config.run_name / "checkpoints")
    sizes = [file.stat().st_size for checkpoint in there for file in checkpoint.iterdir()]
    free = shutil.disk_usage(folder).free + sum(sizes)
    if free >= needed:
        return []
    return [
        f"paths.outputs={config.paths.outputs}: {free / 1e9:.2f} GB are free for this run, it needs "
        f"{needed / 1e9:.2f} GB for checkpoint.keep={config.checkpoint.keep} checkpoints and the one being "
        "written; free some, keep fewer, or point paths.outputs elsewhere"
    ]


def one_checkpoint_bytes(config: RunConfig) -> int:
    """Returns the bytes of one checkpoint's tensors; parameters that are frozen in every stage have no states."""
    optimizer, groups = OPTIMIZERS[config.optimizer.name], config.optimizer.groups
    frozen = [
        set(frozen_parameters(config.model, groups, stage_groups(groups, stage.groups)))
        for stage in config.schedule.stages.values()
    ]
    still = set.intersection(*frozen) if frozen else set()
    without = sum(prod(shape_of(name, config.model)) for name in still)
    return (
        optimizer.bytes_of_kinds * parameter_count(config.model)
        - optimizer.bytes_of_states * without
    )
