"""The process groups of a run: who talks to whom, and on which group."""

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
    """One axis of the grid (or the product of several) as this rank sees it.

    ranks: the global ranks of the group, in order of their coordinate. `group` is None where there is
    nobody else (whoever would talk looks at `size` first), and on the data axis, where nothing travels.
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
        """What the flight recorder and the watch call the group."""
        return "" if self.group is None else str(self.group.group_desc)


def gather(part: Tensor, ranks: AxisGroup) -> list[Tensor]:
    """Every rank's tensor of this shape, in order of rank. Collective; without gradients."""
    if ranks.size == 1:
        return [part]
    parts = [torch.empty_like(part) for _ in range(ranks.size)]
    dist.all_gather(parts, part.contiguous(), group=ranks.group)
    return parts


@dataclass(frozen=True)
class World:
    """What outlives a change of layout: the processes themselves and every group made so far."""

    rank: int
    world_size: int
    device: torch.device
    # A gloo group of its own for checkpoints written in the background: on the default group
    # their collectives would interleave with the training step's.
    checkpoint_group: dist.ProcessGroup
    # CPU objects (verdicts, file lists) travel here, whatever the device.
    control_group: dist.ProcessGroup
    timeouts: Timeouts
    # By purpose and members: a layout that comes back finds its groups again.
    groups: dict[tuple[str, tuple[int, ...]], dist.ProcessGroup]
    # By description (which the flight recorder shows): axis and ranks of every group of this rank.
    members: dict[str, Members]
    # A connection of its own to where the ranks met, for the watch; None in tests that met otherwise.
    store: Store | None


@dataclass(frozen=True)
class Mesh:
    """Who this rank is and whom it talks to on every axis. Made by `start` and `arrange`, handed down.

    tensor, sequence, data, pipeline: the four axes. window: the ranks of `sequence` again, on a group of
    its own, for layers with a window. zero: data x sequence, over which ZeRO shards and gradients
    are averaged. model: tensor x pipeline, the ranks that hold different parameters.
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
        """What this rank computes on."""
        return self.world.device

    @property
    def checkpoint_group(self) -> dist.ProcessGroup:
        """For checkpoints written in the background; gloo."""
        return self.world.checkpoint_group

    @property
    def control_group(self) -> dist.ProcessGroup:
        """For CPU objects; gloo."""
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
        """This rank's number among the ranks of its pipeline stage, and how many they are."""
        size = self.world_size // self.pipeline.size
        return self.rank % size, size

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs, JSON and reports."""
        return self.rank == 0

    def sum_over_world(self, tensor: Tensor) -> Tensor:
        """All-reduce `tensor` in place over every rank and return it."""
        dist.all_reduce(tensor)
        return tensor

    def gather_world(self, row: Tensor) -> Tensor:
        """Every rank's `row` (N,), as (ranks, N), on the CPU. Collective."""
        rows = [torch.empty_like(row) for _ in range(self.world_size)]
        with waiting("control", "all_gather"):
            dist.all_gather(rows, row, group=self.control_group)
        return torch.stack(rows)

    def broadcast_object(self, value: Any) -> Any:
        """The main rank's `value`, on every rank (any picklable object, through the CPU)."""
        box = [value]
        with waiting("control", "broadcast"):
            dist.broadcast_object_list(box, src=0, group=self.control_group)
        return box[0]

    def gather_objects(self, value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
        """Every rank's `value`, in rank order, on every rank."""
        box: list[Any] = [None] * self.world_size
        group = group or self.control_group
        with waiting(str(group.group_desc), "all_gather"):
            dist.all_gather_object(box, value, group=group)
        return box

    def through_store(self, purpose: str) -> StoreGather:
        """Where ranks can be heard that no group reaches; one for every purpose."""
        store = self.world.store or _get_default_store()
        return StoreGather(PrefixStore(purpose, store), self.rank, self.world_size)

    def together(self, work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
        """`work()` on every rank; if any rank refuses, every rank raises that rank's reason. Collective.

        A rank that raised alone would leave the others waiting in the next collective.

        Raises:
            ValueError, OSError: the first rank's that raised one.
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
    """Device of this rank for `wanted` in {"auto", "cpu", "cuda"}.

    Raises:
        ValueError: "cuda" was asked for and this host has too few devices for its local ranks.
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
    """Join the world as a grid (by default: everyone on the data axis). End with `stop`.

    timeouts: how long to wait for peers; a number stands for all of them, in seconds. meeting: where the
    ranks have met; by default they meet here.

    Raises:
        ValueError: the ranks cannot meet, in one line.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not isinstance(timeouts, Timeouts):
        timeouts = Timeouts(timeouts)
    timeout = timeouts.of_backend("world", started=False)
    os.environ.setdefault(
        "TORCH_FR_BUFFER_SIZE", "2000"
    )  # torch's flight recorder: so many collectives
    store: Store | None = None
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized():  # else by tests/ranks.py
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
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
    """Tell every backend how long to wait, before or after the first step of a layout."""
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
    """The processes of `world` in another grid. Collective; groups that were made before are used again.

    Raises:
        ValueError: the grid has another number of ranks than the world.
    """
    if topology.world_size != world.world_size:
        raise ValueError(
            f"{topology}: needs {topology.world_size} ranks, the world has {world.world_size}"
        )
    groups = {name: _axis_group(world, topology, name, axes) for name, axes in GROUPS.items()}
    return Mesh(world, topology, **groups)


# What varies within a group of each purpose.
GROUPS: dict[str, tuple[Axis, ...]] = {
    "tensor": ("tensor",),
    "sequence": ("sequence",),
    "window": ("sequence",),
    "data": ("data",),
    "pipeline": ("pipeline",),
    "zero": ("data", "sequence"),
    "model": ("pipeline", "tensor"),
}
# DeepSpeed asks for these groups even where they have one member.
_ALWAYS_A_GROUP = ("zero", "model")
# Gradients are averaged over data x sequence; nothing travels on the data axis alone.
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
    """The group of these ranks for this purpose; every rank of the world makes every group."""
    if (name, ranks) not in world.groups:
        # Bound to its device a group has one NCCL communicator for single and batched transfers. Without
        # it torch 2.13 sends a batch of one kind on another one, where the peer's mixed batch never is.
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
    """The first call on a group must include all its ranks, which a point-to-point call would not."""
    dist.all_reduce(torch.zeros(1, device=device), group=group)


def stop() -> None:
    """Leave the world together: without the barrier some hosts abort at exit."""
    if dist.is_initialized():
        here = [torch.cuda.current_device()] if dist.get_backend() == "nccl" else None
        dist.barrier(device_ids=here)
        dist.destroy_process_group()
