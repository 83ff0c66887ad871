"""Tensors of a checkpoint, in one format for every layout.

Full logical float32 tensors by parameter name: `weight/NAME` and, unless the parameter is frozen, one `STATE/NAME` for
each state of the optimizer (AdamW: `exp_avg/NAME`, `exp_avg_sq/NAME`), each in the file of the one rank that wrote it,
and an index of files and tensors. The format does not depend on axes or ZeRO stages, so a run may continue under
another layout. Gathering is collective and short; writing happens in a thread, on a separate process group, while
training continues. JSON files, retention and `latest` are in train/.
"""

import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from parallel.checkpoint.index import DamagedCheckpoint, FileRecord, Index, TensorRecord
from parallel.checkpoint.tensor_files import file_record, map_tensors, write_tensors
from parallel.engine.engine import TrainingEngine
from parallel.engine.training import StepCounts
from parallel.mesh import Mesh

# Seconds between two progress lines of a long verification.
PROGRESS_SECONDS = 10.0


def owners(sizes: Sequence[int], num_ranks: int) -> list[int]:
    """Returns the rank of each item such that sizes are spread evenly: largest first, to the least loaded rank."""
    load = [0] * num_ranks
    owner = [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owner[index] = min(range(num_ranks), key=lambda rank: (load[rank], rank))
        load[owner[index]] += sizes[index]
    return owner


def gather_owned(engine: TrainingEngine) -> dict[str, Tensor]:
    """Returns CPU copies of the tensors that this rank will write. Collective; training may continue afterwards."""
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


def write(owned: dict[str, Tensor], folder: Path, mesh: Mesh) -> Index:
    """Writes every rank's tensors under `folder`; returns when all ranks have. Collective.

    Meant for a background thread.

    Raises:
        OSError: on every rank if one cannot write its file; names that rank and the reason.
    """
    part = mesh.together(lambda: _write_own(owned, folder, mesh.rank), mesh.checkpoint_group)
    parts = mesh.gather_objects(part, mesh.checkpoint_group)
    return {
        "files": {name: record for part in parts for name, record in part["files"].items()},
        "tensors": {key: record for part in parts for key, record in part["tensors"].items()},
    }


def _write_own(owned: dict[str, Tensor], folder: Path, rank: int) -> Index:
    if not owned:  # more ranks than tensors
        return {"files": {}, "tensors": {}}
    name = f"rank_{rank:05d}.safetensors"
    try:
        record = write_tensors(folder / name, owned)
    except OSError as error:
        raise OSError(f"rank {rank}: {name}: {error.strerror or error}") from error
    except Exception as error:  # for example out of memory: the others must not wait for this rank
        raise OSError(f"rank {rank}: {name}: {error!r}") from error
    tensors: dict[str, TensorRecord] = {
        key: {"file": name, "shape": list(tensor.shape), "dtype": "float32"}
        for key, tensor in owned.items()
    }
    return {"files": {name: record}, "tensors": tensors}


def verify(folder: Path, index: Index, mesh: Mesh, tell: Callable[[str], None]) -> None:
    """Checks size and SHA-256 of every file, each on one rank. Collective. tell: prints progress.

    Raises:
        DamagedCheckpoint: on every rank, the first file that differs, with expected and found values.
        ValueError: on every rank, if one cannot read a file for a reason other than a damaged file.
    """
    sizes = {name: record["bytes"] for name, record in index["files"].items()}
    owner = owners(list(sizes.values()), mesh.world_size)
    mine = [name for name, rank in zip(sizes, owner, strict=True) if rank == mesh.rank]
    say = _share_done(folder, sum(sizes[name] for name in mine), sum(sizes.values()), tell)

    def compare() -> None:
        for name in mine:
            _compare(folder, name, index["files"][name], mesh.rank, say)

    # Sizes first: if a file is missing, the others need not be read.
    mesh.together(lambda: compare_sizes(folder, index) if mesh.is_main else None)
    mesh.together(compare)


def compare_sizes(folder: Path, index: Index) -> None:
    """Checks that every file is there and has its size.

    Raises:
        DamagedCheckpoint: the first file that is missing or differs.
    """
    for name, record in index["files"].items():
        try:
            found = (folder / name).stat().st_size
        except FileNotFoundError:
            raise DamagedCheckpoint(f"checkpoint {folder}: {name} is missing") from None
        if found != record["bytes"]:
            raise DamagedCheckpoint(
                f"checkpoint {folder}: {name} is damaged: expected {record['bytes']:,} bytes, found {found:,}"
            )


def _compare(
    folder: Path, name: str, record: FileRecord, rank: int, progress: Callable[[int], None]
) -> None:
    try:
        found = file_record(folder / name, progress)
    except OSError as error:
        line = f"checkpoint {folder}: {name} cannot be read by rank {rank} ({error.strerror})"
        if error.errno == errno.EIO:
            raise DamagedCheckpoint(line) from error
        # The file may be sound: a checkpoint must not be set aside because one host does not see it.
        raise ValueError(f"{line}; all hosts must see it under the same path") from error
    if found != record:
        raise DamagedCheckpoint(
            f"checkpoint {folder}: {name} is damaged: expected sha256 {record['sha256']}, found "
            f"{found['sha256']}"
        )


def _share_done(
    folder: Path, share: int, total: int, tell: Callable[[str], None]
) -> Callable[[int], None]:
    """Returns a function that counts bytes of this rank's share and reports progress every PROGRESS_SECONDS."""
    done, said = 0, time.monotonic()

    def count(size: int) -> None:
        nonlocal done, said
        done += size
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            tell(f"checking {folder}: {done / share:.0%} of {total / 1e9:,.1f} GB")

    return count


def read(engine: TrainingEngine, folder: Path, index: Index, *, steps: StepCounts) -> None:
    """Loads weights and the optimizer's states from `folder` into `engine`, whatever layout wrote them. Collective.

    Tensors are mapped, so a rank reads only what it keeps; call `verify` first. steps: those before the checkpoint.
    States of parameters with 0 steps, or that are frozen now, are neither read nor required: a checkpoint that was made
    of weights alone has none.

    Raises:
        ValueError: the checkpoint's parameters differ from the model's in names or shapes.
        DamagedCheckpoint: the index lacks a state, or a file does not hold the tensors in the index.
    """
    shapes = {key: torch.Size(record["shape"]) for key, record in index["tensors"].items()}
    parameters = engine.parameters
    wanted = {name: parameters.full_shape(name) for name in parameters.named}
    everywhere = {name for names in engine.mesh.gather_objects(list(wanted)) for name in names}
    engine.mesh.together(lambda: _refuse_others(folder, shapes, wanted, everywhere))
    kinds = {name: engine.kinds_of(name, steps) for name in wanted}
    tensors = engine.mesh.together(lambda: _map(folder, index, shapes, wanted, kinds))
    engine.restore(_by_name(tensors, kinds), steps)


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


def _map(
    folder: Path,
    index: Index,
    shapes: dict[str, torch.Size],
    wanted: dict[str, torch.Size],
    kinds: Mapping[str, Sequence[str]],
) -> dict[str, Tensor]:
    """Returns the wanted parameters' tensors of their kinds, by key, mapped into memory."""
    by_file: dict[str, dict[str, torch.Size]] = {}
    for name, shape in wanted.items():
        for kind in kinds[name]:
            key = f"{kind}/{name}"
            if shapes.get(key) != shape:
                raise DamagedCheckpoint(f"checkpoint {folder}: its index does not fit {key}")
            by_file.setdefault(index["tensors"][key]["file"], {})[key] = shape
    tensors: dict[str, Tensor] = {}
    try:
        for file, keys in by_file.items():
            tensors |= map_tensors(folder / file, keys)
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"checkpoint {folder}: {error}") from error
    return tensors


def _by_name(
    tensors: dict[str, Tensor], kinds: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name, of_name in kinds.items():
        yield name, {kind: tensors.pop(f"{kind}/{name}") for kind in of_name}


def verify_alone(folder: Path, index: Index) -> None:
    """Checks size and SHA-256 of every file in one process, without process groups.

    Raises:
        DamagedCheckpoint: the first file that differs.
        ValueError: a file cannot be read.
    """
    compare_sizes(folder, index)
    for name, record in index["files"].items():
        _compare(folder, name, record, 0, lambda size: None)  # noqa: ARG005
