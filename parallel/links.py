"""What the groups of a mesh carry: does each answer, are its sums right, how fast is it, which link is slow.

    ring         every rank sends to the next of its group and receives from the one before: each link by itself
    all-reduce   of one number for the time of a call, of a long message for the bytes a second

No call waits longer than it is told to, so a group that cannot talk is known after that time and the next one
can be tried. The ring comes first: a message that does not arrive breaks one connection, a sum breaks all.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.mesh import AxisGroup, Mesh

REPEATS = 3
# What carries much. The other groups have the same ranks as one of these, or carry little.
MEASURED = ("tensor", "sequence", "pipeline", "zero")
# Groups whose tensors are on the CPU, whatever the ranks compute on.
_ON_CPU = ("checkpoint",)
# What is sent differs along a message, so that a shifted or torn one is noticed; small, so that sums are exact.
_PERIOD = 251


@dataclass(frozen=True)
class GroupTest:
    """What one rank saw of one group. Times are the shortest of a few, in seconds; 0: not measured.

    name: the purpose of the group. num_bytes: length of the long message. ring: until the message of the rank
    before was here. error: what went wrong, and `silent_peer` whose message did not come; "" and None: nothing.
    layout: number of the grid that the group belongs to.
    """

    name: str
    num_bytes: int
    latency: float = 0.0
    all_reduce: float = 0.0
    ring: float = 0.0
    error: str = ""
    silent_peer: int | None = None
    layout: int = 0


class TransferFailed(RuntimeError):
    """A transfer did not end, or brought something else than was sent. `peer`: whose message did not come."""

    def __init__(self, what: str, peer: int | None = None) -> None:
        super().__init__(what)
        self.peer = peer


def message_bytes(device: torch.device) -> int:
    """Long enough to fill the links of this kind of device, short enough to take milliseconds."""
    return 64 << 20 if device.type == "cuda" else 4 << 20


def groups_of(mesh: Mesh) -> dict[str, AxisGroup]:
    """The groups of this rank that have somebody else in them, by purpose, in one order on every rank."""
    everyone = tuple(range(mesh.world_size))
    named = {
        "world": AxisGroup(mesh.rank, everyone, dist.group.WORLD),
        "checkpoint": AxisGroup(mesh.rank, everyone, mesh.checkpoint_group),
    }
    named |= {name: getattr(mesh, name) for name in ("tensor", "sequence", "window")}
    named |= {name: getattr(mesh, name) for name in ("pipeline", "zero", "model")}
    return {
        name: group for name, group in named.items() if group.group is not None and group.size > 1
    }


def try_group(
    name: str, group: AxisGroup, device: torch.device, *, num_bytes: int, seconds: float
) -> GroupTest:
    """Try one group. All its ranks call this together; it ends after some multiples of `seconds` at most.

    num_bytes: of the long message; 0 measures no bandwidth, and sees whether a sum is right.
    """
    where = torch.device("cpu") if name in _ON_CPU else device
    wire = _Wire(group, where, num_bytes, timedelta(seconds=seconds))
    latency, all_reduce, ring, error, peer = 0.0, 0.0, 0.0, "", None
    try:
        if num_bytes:
            wire.ring()
            ring = _shortest(wire.ring_together)
        latency = _shortest(lambda: wire.all_reduce(1))
        if num_bytes:
            all_reduce = _shortest(wire.all_reduce)
    except TransferFailed as failed:
        error, peer = str(failed), failed.peer
    return GroupTest(name, num_bytes, latency, all_reduce, ring, error, peer)


def clock_rounds(mesh: Mesh, seconds: float, rounds: int = 4) -> list[tuple[float, float]]:
    """This host's time before and after some barriers of the whole world, on the control group.

    Nobody leaves a barrier before everybody has come to it, so two ranks' times bound the offset of
    their clocks, however long the barrier took (train/preflight/clocks.py).

    Raises:
        TransferFailed: the control group cannot talk.
    """
    found = []
    for _ in range(rounds):
        before = time.time()
        _sum(torch.ones(1), mesh.control_group, timedelta(seconds=seconds))
        found.append((before, time.time()))
    return found


class _Wire:
    """Timed and checked transfers on one group."""

    def __init__(
        self, group: AxisGroup, device: torch.device, num_bytes: int, limit: timedelta
    ) -> None:
        self._group, self._device, self._limit = group, device, limit
        length = max(1, num_bytes // 4)
        self._pattern = torch.arange(length, dtype=torch.int32, device=device) % _PERIOD

    def all_reduce(self, length: int | None = None) -> float:
        """Seconds of one all-reduce of the first `length` numbers of the message."""
        size = self._group.size
        pattern = self._pattern[:length]
        message, wanted = pattern + self._group.rank, size * pattern + size * (size - 1) // 2
        began = self._now()
        _sum(message, self._group.group, self._limit)
        took = self._now() - began
        if not torch.equal(message, wanted):
            raise TransferFailed("an all-reduce gave another sum than that of its parts")
        return took

    def ring_together(self) -> float:
        """`ring`, begun by all ranks at the same time: a late neighbour is no slow link."""
        self.all_reduce(1)
        return self.ring()

    def ring(self) -> float:
        """Seconds until the message of the rank before is here, while ours goes to the next."""
        rank, ranks = self._group.rank, self._group.ranks
        after, before = ranks[(rank + 1) % len(ranks)], ranks[rank - 1]
        message = self._pattern + rank
        arrived = torch.zeros_like(message)
        began = self._now()
        with _failing_as("a message could not be started"):
            works = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.irecv, arrived, before, self._group.group),
                    dist.P2POp(dist.isend, message, after, self._group.group),
                ]
            )
        with _failing_as(f"no message from rank {before}", before):
            works[0].wait(self._limit)
        took = self._now() - began
        with _failing_as(f"rank {after} takes no message"):
            works[-1].wait(self._limit)
        if not torch.equal(arrived, self._pattern + (rank - 1) % len(ranks)):
            raise TransferFailed(f"the message of rank {before} is not what it sent", before)
        return took

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def _sum(message: Tensor, group: dist.ProcessGroup | None, limit: timedelta) -> None:
    with _failing_as("an all-reduce did not end"):
        work = dist.all_reduce(message, group=group, async_op=True)
        assert work is not None
        work.wait(limit)


@contextmanager
def _failing_as(what: str, peer: int | None = None) -> Iterator[None]:
    """Say what failed before the backend's own words."""
    try:
        yield
    except RuntimeError as error:
        raise TransferFailed(f"{what} ({str(error).splitlines()[0]})", peer) from error


def _shortest(call: Callable[[], float]) -> float:
    return min(call() for _ in range(REPEATS))
