"""Tensors of a checkpoint, in one format for every layout.

torch.distributed.checkpoint (DCP) holds full logical float32 tensors by parameter name:
`weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`. Neither ranks nor ZeRO stages appear in it, so a run
may go on under another layout. Gathering is collective and short; writing happens in a thread, on a
process group of its own, while training goes on. JSON, retention and `latest` live in train/.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from parallel.deepspeed_engine import ADAM_STATES, TrainingEngine
from parallel.mesh import Mesh

KINDS = ("weight", *ADAM_STATES)
# Full tensors read at once while loading: bounds host memory, not speed.
READ_ELEMENTS = 2**28


class DamagedCheckpoint(ValueError):
    """A checkpoint's tensors cannot be read."""


def owners(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """Which rank writes each tensor, so that bytes are spread evenly: largest first, to the lightest."""
    load = [0] * num_ranks
    owner = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner[index] = min(range(num_ranks), key=lambda rank: (load[rank], rank))
        load[owner[index]] += sizes[index]
    return owner


def gather_owned(engine: TrainingEngine) -> dict[str, Tensor]:
    """CPU copies of the tensors this rank will write. Collective; training may go on afterwards."""
    parameters = engine.parameters
    names = list(parameters.named)
    mine, num_ranks = engine.mesh.holders
    owner = owners([parameters.full_shape(name).numel() for name in names], num_ranks)
    owned = {}
    for name, rank in zip(names, owner, strict=True):
        tensors = engine.full_tensors(name)
        if rank == mine:
            for kind, tensor in tensors.items():
                owned[f"{kind}/{name}"] = tensor.detach().to("cpu", torch.float32, copy=True)
    return owned


def write(owned: dict[str, Tensor], folder: Path, mesh: Mesh) -> None:
    """Write every rank's tensors under `folder`; returns when all ranks have. Collective.

    Meant for a background thread. Raises OSError when the file system refuses.
    """
    writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True)
    try:
        save(owned, storage_writer=writer, process_group=mesh.checkpoint_group)
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        raise OSError(f"checkpoint {folder} could not be written: {first}") from error


def read(engine: TrainingEngine, folder: Path, *, adam_steps: int) -> None:
    """Load weights and moments from `folder` into `engine`, whatever layout wrote them. Collective.

    Raises:
        ValueError: the checkpoint lacks a parameter or has one of another shape.
    """
    shapes = stored_shapes(folder)
    parameters = engine.parameters
    wanted = {name: parameters.full_shape(name) for name in parameters.named}
    everywhere = {name for names in engine.mesh.gather_objects(list(wanted)) for name in names}
    engine.mesh.together(lambda: _refuse_others(folder, shapes, wanted, everywhere))
    engine.restore(_stream(folder, wanted, engine.mesh), adam_steps)


def _refuse_others(
    folder: Path,
    shapes: dict[str, torch.Size],
    wanted: dict[str, torch.Size],
    everywhere: set[str],
) -> None:
    stored = {key.removeprefix("weight/") for key in shapes if key.startswith("weight/")}
    differences = [f"{name} is missing" for name in sorted(everywhere - stored)]
    differences += [f"{name} is unknown to this model" for name in sorted(stored - everywhere)]
    for name, shape in wanted.items():
        found = shapes.get(f"weight/{name}", shape)
        if found != shape:
            differences.append(f"{name} has shape {tuple(found)}, this model {tuple(shape)}")
    if differences:
        raise ValueError(
            f"checkpoint {folder} is of another model: {'; '.join(differences[:3])}"
            f"{' ...' if len(differences) > 3 else ''}"
        )


def stored_shapes(folder: Path) -> dict[str, torch.Size]:
    """Logical shape of every tensor in a checkpoint, by its key.

    Raises:
        ValueError: the folder holds no readable checkpoint.
    """
    try:
        metadata = FileSystemReader(folder).read_metadata()
    except (OSError, EOFError, KeyError, ValueError, AttributeError, UnpicklingError) as error:
        raise ValueError(f"{folder}: no readable checkpoint there ({error})") from error
    return {
        key: entry.size
        for key, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


def _stream(
    folder: Path, wanted: dict[str, torch.Size], mesh: Mesh
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every parameter's tensors, in batches. All ranks read as often, so that what one finds damaged (its
    pipeline stage's file, say) is raised on all."""
    batches: list[list[str]] = [[]]
    elements = 0
    for name, shape in wanted.items():
        if elements >= READ_ELEMENTS:
            batches.append([])
            elements = 0
        batches[-1].append(name)
        elements += len(KINDS) * shape.numel()
    most = max(mesh.gather_objects(len(batches)))
    for names in [*batches, *([[]] * (most - len(batches)))]:
        state = mesh.together(partial(_read_batch, folder, names, wanted))
        for name in names:
            yield name, {kind: state[f"{kind}/{name}"] for kind in KINDS}


def _read_batch(folder: Path, names: list[str], wanted: dict[str, torch.Size]) -> dict[str, Tensor]:
    state = {
        f"{kind}/{name}": torch.empty(wanted[name], dtype=torch.float32)
        for name in names
        for kind in KINDS
    }
    if not names:
        return state
    try:
        with warnings.catch_warnings():  # that no group was given: every rank reads for itself
            warnings.simplefilter("ignore", UserWarning)
            load(state, checkpoint_id=folder, no_dist=True)
    except (CheckpointException, OSError, EOFError, RuntimeError, UnpicklingError) as error:
        raise DamagedCheckpoint(
            f"checkpoint {folder}: its tensors are damaged ({error}); remove the folder to go on from the "
            "one before, or name another with checkpoint.resume=DIR"
        ) from error
    return state
