"""The process groups of a run: the ranks of each axis, and collectives of Python objects over the whole world."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import (
    PrefixStore,
    Store,
    _get_default_store,
    _set_pg_timeout,
)

from parallel.launcher import launched_local_rank
from parallel.rendezvous.meeting import Meeting, meet_all
from parallel.rendezvous.store_gather import StoreGather
from parallel.timeouts import Timeouts, axis_name
from parallel.topology import Axis, Topology
from parallel.watch.verdict import Members, rank_ranges
from parallel.watch.waiting import waiting

T = TypeVar("T")


@dataclass(frozen=True)
class AxisGroup:
    """One axis of the grid (or the product of several), and this rank's place on it.

    rank: this rank's coordinate. ranks: the global ranks of the group, in order of their coordinate. group: None on
    the data axis, which has no traffic, and for a group of one rank (but for `zero` and `model`); check `size` first.
    """

    rank: int
    ranks: tuple[int, ...]
    group: dist.ProcessGroup | None

    @property
    def size(self) -> int:
        """Length of the axis."""
        return len(self.ranks)

    @property
    def description(self) -> str:
        """The name of the group in the flight recorder and in the watch."""
        return "" if self.group is None else str(self.group.group_desc)


def gather(part: Tensor, ranks: AxisGroup) -> list[Tensor]:
    """Returns every rank's `part`, all of one shape, in order of rank. Collective; without gradients."""
    if ranks.size == 1:
        return [part]
    parts = [torch.empty_like(part) for _ in range(ranks.size)]
    dist.all_gather(parts, part.contiguous(), group=ranks.group)
    return parts


@dataclass(frozen=True)
class World:
    """What stays the same when the layout changes: this process, and every group made so far."""

    rank: int
    world_size: int
    device: torch.device
    # A gloo group for checkpoints written in the background: on the default group their collectives would interleave
    # with those of the training step.
    checkpoint_group: dist.ProcessGroup
    # A gloo group for Python objects (decisions, file lists), whatever the device.
    control_group: dist.ProcessGroup
    timeouts: Timeouts
    # By purpose and members: a layout that was used before uses its groups again.
    groups: dict[tuple[str, tuple[int, ...]], dist.ProcessGroup]
    # By description (as in the flight recorder): axis and ranks of every group of this rank.
    members: dict[str, Members]
    # A separate connection to the rendezvous store, for the watch; None with one rank, and where the default group
    # existed before `start` (tests).
    store: Store | None


@dataclass(frozen=True)
class Mesh:
    """This rank's place in the world and its group on every axis. Made by `start` and `arrange`.

    tensor, sequence, data, pipeline: the four axes. window: the ranks of `sequence` in a second group, for layers
    with a window. zero: data x sequence, over which ZeRO shards and gradients are averaged. model: tensor x
    pipeline, the ranks that hold different parameters.
    """

    world: World
    topology: Topology
    tensor: AxisGroup
    sequence: AxisGroup
    window: AxisGroup
    data: AxisGroup
    pipeline: AxisGroup
    zero: AxisGroup
    model: AxisGroup

    @property
    def rank(self) -> int:
        """Global rank."""
        return self.world.rank

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.world.world_size

    @property
    def device(self) -> torch.device:
        """The device this rank computes on."""
        return self.world.device

    @property
    def checkpoint_group(self) -> dist.ProcessGroup:
        """For checkpoints written in the background; gloo."""
        return self.world.checkpoint_group

    @property
    def control_group(self) -> dist.ProcessGroup:
        """For Python objects; gloo."""
        return self.world.control_group

    @property
    def dp_rank(self) -> int:
        """Coordinate on the data axis."""
        return self.data.rank

    @property
    def dp_size(self) -> int:
        """Length of the data axis."""
        return self.data.size

    @property
    def holders(self) -> tuple[int, int]:
        """This rank's number among the ranks with its pipeline coordinate, and how many these are."""
        size = self.world_size // self.pipeline.size
        return self.rank % size, size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs, JSON and reports."""
        return self.rank == 0

    def sum_over_world(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` in place over all ranks and returns it. Collective."""
        dist.all_reduce(tensor)
        return tensor

    def gather_world(self, row: Tensor) -> Tensor:
        """Returns every rank's `row` (N,) as (ranks, N), on the CPU. Collective."""
        rows = [torch.empty_like(row) for _ in range(self.world_size)]
        with waiting("control", "all_gather"):
            dist.all_gather(rows, row, group=self.control_group)
        return torch.stack(rows)

    def broadcast_object(self, value: Any) -> Any:
        """Returns the main rank's `value` on every rank (any picklable object, through the CPU). Collective."""
        box = [value]
        with waiting("control", "broadcast"):
            dist.broadcast_object_list(box, src=0, group=self.control_group)
        return box[0]

    def gather_objects(self, value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """Returns every rank's `value`, in order of rank, on every rank. Collective."""
        box: list[Any] = [None] * self.world_size
        group = group or self.control_group
        with waiting(str(group.group_desc), "all_gather"):
            dist.all_gather_object(box, value, group=group)
        return box

    def through_store(self, purpose: str) -> StoreGather:
        """Returns a gather through the store, for ranks that no process group reaches; one for every purpose."""
        store = self.world.store or _get_default_store()
        return StoreGather(PrefixStore(purpose, store), self.rank, self.world_size)

    def together(self, work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
        """Returns this rank's `work()`; if it raises ValueError or OSError on any rank, every rank raises. Collective.

        A rank that raised alone would leave the others waiting in the next collective. Exceptions of other types are
        not shared: they do leave the others waiting.

        Raises:
            ValueError, OSError: the exception of the lowest rank that raised one.
        """
        failure: ValueError | OSError | None = None
        try:
            result = work()
        except (ValueError, OSError) as error:
            failure = error
        for reason in self.gather_objects(failure, group):
            if reason is not None:
                raise reason
        return result


def choose_device(wanted: str) -> torch.device:
    """Returns the device of this rank for `wanted` in {"auto", "cpu", "cuda"}.

    Raises:
        ValueError: this host has too few GPUs for its local ranks (with "auto": some, but too few).
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local_rank = launched_local_rank()
    if wanted == "cpu" or (wanted == "auto" and available == 0):
        return torch.device("cpu")
    if local_rank >= available:
        raise ValueError(
            f"train.device={wanted}: local rank {local_rank} has no GPU of its own "
            f"({available} on this host); start at most {available} ranks per host "
            "(--nproc-per-node) or set train.device=cpu"
        )
    return torch.device("cuda", local_rank)


def start(
    device: torch.device,
    timeouts: Timeouts | float,
    topology: Topology | None = None,
    meeting: Meeting | None = None,
) -> Mesh:
    """Joins the world and makes the groups of `topology` (by default: all ranks on the data axis). End with `stop`.

    timeouts: how long to wait for peers; a number stands for all of them, in seconds. meeting: the rendezvous of
    these ranks, if they have met already.

    Raises:
        ValueError: the rendezvous failed, in one line.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not isinstance(timeouts, Timeouts):
        timeouts = Timeouts(timeouts)
    timeout = timeouts.of_backend("world", started=False)
    os.environ.setdefault(
        "TORCH_FR_BUFFER_SIZE", "2000"
    )  # collectives that torch's flight recorder keeps
    store: Store | None = None
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized():  # else by tests/ranks.py
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it
        meeting = meeting or meet_all(timeouts.of("control", started=False))
        with waiting("", "making the group of all ranks"):
            dist.init_process_group(
                backend,
                store=meeting.connect(),
                rank=meeting.rank,
                world_size=meeting.world_size,
                timeout=timeout,
            )
        store = meeting.connect() if meeting.world_size > 1 else None
    rank, world_size = dist.get_rank(), dist.get_world_size()
    world = World(
        rank,
        world_size,
        device,
        checkpoint_group=_group_of_all("checkpoint", timeouts),
        control_group=_group_of_all("control", timeouts),
        timeouts=timeouts,
        groups={},
        members={
            name: Members(name, tuple(range(world_size))) for name in ("control", "checkpoint")
        }
        | {str(_everyone().group_desc): Members("world", tuple(range(world_size)))},
        store=store,
    )
    with waiting("", "the first transfer among all ranks"):
        _warm(None, device)
        for group in (world.checkpoint_group, world.control_group):
            dist.barrier(group=group)
    return arrange(world, topology or Topology(data=world_size))


def _everyone() -> dist.ProcessGroup:
    assert dist.group.WORLD is not None
    return dist.group.WORLD


def _group_of_all(name: str, timeouts: Timeouts) -> dist.ProcessGroup:
    timeout = timeouts.of_backend(name, started=False)
    with waiting("", f"making the group of all ranks for {name}"):
        group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timeout, group_desc=name)
    return group


def limit_waits(world: World, *, started: bool) -> None:
    """Sets the timeout of every group's backend. started: whether the first step of the layout is done."""
    named = [(name, group) for (name, _), group in world.groups.items()]
    named += [("control", world.control_group), ("checkpoint", world.checkpoint_group)]
    for name, group in [*named, ("world", _everyone())]:
        limit = world.timeouts.of_backend(name, started=started)
        if hasattr(group, "set_timeout"):
            group.set_timeout(limit)
        elif isinstance(
            group, dist.ProcessGroup
        ):  # torch before 2.13; else a group this rank is not in
            _set_pg_timeout(limit, group)


def arrange(world: World, topology: Topology) -> Mesh:
    """Returns the mesh of `world` under `topology`. Collective; groups that exist already are used again.

    Raises:
        ValueError: the topology has another number of ranks than the world.
    """
    if topology.world_size != world.world_size:
        raise ValueError(
            f"{topology}: needs {topology.world_size} ranks, the world has {world.world_size}"
        )
    groups = {name: _axis_group(world, topology, name, axes) for name, axes in GROUPS.items()}
    return Mesh(world, topology, **groups)


# The axes whose coordinates vary within a group of each purpose.
GROUPS: dict[str, tuple[Axis, ...]] = {
    "tensor": ("tensor",),
    "sequence": ("sequence",),
    "window": ("sequence",),
    "data": ("data",),
    "pipeline": ("pipeline",),
    "zero": ("data", "sequence"),
    "model": ("pipeline", "tensor"),
}
# DeepSpeed needs these groups even where they have one member.
_ALWAYS_A_GROUP = ("zero", "model")
# Gradients are averaged over data x sequence; the data axis alone has no traffic.
_NEVER_A_GROUP = ("data",)


def _axis_group(world: World, topology: Topology, name: str, axes: tuple[Axis, ...]) -> AxisGroup:
    own: AxisGroup | None = None
    for ranks in topology.groups(*axes):
        group = None
        if (len(ranks) > 1 or name in _ALWAYS_A_GROUP) and name not in _NEVER_A_GROUP:
            group = _group(world, name, ranks)
        if world.rank in ranks:
            own = AxisGroup(ranks.index(world.rank), ranks, group)
    assert own is not None
    return own


def _group(world: World, name: str, ranks: tuple[int, ...]) -> dist.ProcessGroup:
    """Returns the group of these ranks for this purpose, made if new. Collective over the world."""
    if (name, ranks) not in world.groups:
        # Bound to its device, a group has one NCCL communicator for single and batched transfers. Otherwise torch 2.13
        # runs a batch of sends (or receives) alone on another communicator than the peer's mixed batch, and both hang.
        bound = world.device if name == "pipeline" and world.device.type == "cuda" else None
        described = f"{axis_name(name)}#{len(world.groups)}"
        timeout = world.timeouts.of_backend(name, started=False)
        with waiting(
            "", f"making the group of axis {axis_name(name)} (ranks {rank_ranges(ranks)})"
        ):
            group = dist.new_group(
                list(ranks), timeout=timeout, group_desc=described, device_id=bound
            )
            world.groups[name, ranks] = group
            if world.rank in ranks:
                world.members[described] = Members(axis_name(name), ranks)
                _warm(group, world.device)
    return world.groups[name, ranks]


def _warm(group: dist.ProcessGroup | None, device: torch.device) -> None:
    """Runs the first call on a group, which must include all its ranks (a point-to-point call would not)."""
    dist.all_reduce(torch.zeros(1, device=device), group=group)


def stop() -> None:
    """Destroys the process groups after a barrier: without the barrier some hosts abort at exit. Collective."""
    if dist.is_initialized():
        here = [torch.cuda.current_device()] if dist.get_backend() == "nccl" else None
        dist.barrier(device_ids=here)
        dist.destroy_process_group()
