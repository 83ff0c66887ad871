"""Tests the process groups of a mesh: whether each communicates, whether its sums are right, latency and bandwidth.

    ring         every rank sends to the next of its group and receives from the previous one: tests single links
    all-reduce   of one number for latency, of a long message for bandwidth

Every call has a timeout, so a broken group is found within that time and the next group can be tried. The ring
test comes first: a lost message breaks one connection, a failed all-reduce breaks all of them.
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
# Groups with much traffic. The others have the same ranks as one of these, or little traffic.
MEASURED = ("tensor", "sequence", "pipeline", "zero")
# Groups whose tensors are on the CPU, whatever device the ranks compute on.
_ON_CPU = ("checkpoint",)
# The pattern in a message repeats after this many numbers: shifted or torn messages differ, and sums stay exact.
_PERIOD = 251


@dataclass(frozen=True)
class GroupTest:
    """One rank's test of one group. Times are the shortest of REPEATS, in seconds; 0: not measured.

    name: the purpose of the group. num_bytes: length of the long message. ring: until the previous rank's message
    has arrived. error: what failed; "" if nothing did. silent_peer: the rank whose message did not arrive, or None.
    layout: number of the layout that the group belongs to.
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
    """A transfer did not end, or delivered other data than was sent. peer: the rank whose message is missing."""

    def __init__(self, what: str, peer: int | None = None) -> None:
        super().__init__(what)
        self.peer = peer


def message_bytes(device: torch.device) -> int:
    """Returns the length of the long message: enough to fill the links of this device, sent within milliseconds."""
    return 64 << 20 if device.type == "cuda" else 4 << 20


def groups_of(mesh: Mesh) -> dict[str, AxisGroup]:
    """Returns this rank's groups of two or more ranks, by purpose, in the same order on every rank."""
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
    """Tests one group. Collective over the group; takes a few multiples of `seconds` at most.

    num_bytes: of the long message; 0 measures latency and checks a sum, without ring and bandwidth.
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
    """Returns this host's time before and after each of `rounds` barriers of the whole world, on the control group.

    No rank leaves a barrier before every rank has entered it, so two ranks' times bound the offset of
    their clocks, however long the barrier took (train/preflight/clocks.py).

    Raises:
        TransferFailed: the control group cannot communicate.
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
        """Returns the seconds of one all-reduce of the first `length` numbers of the message (None: all)."""
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
        """`ring` after a barrier, so that a late neighbour does not look like a slow link."""
        self.all_reduce(1)
        return self.ring()

    def ring(self) -> float:
        """Returns the seconds until the previous rank's message has arrived, while this rank sends to the next."""
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
        with _failing_as(f"rank {after} does not receive a message"):
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
    """Raises an error of the backend as `TransferFailed`, with `what` before the backend's message."""
    try:
        yield
    except RuntimeError as error:
        raise TransferFailed(f"{what} ({str(error).splitlines()[0]})", peer) from error


def _shortest(call: Callable[[], float]) -> float:
    return min(call() for _ in range(REPEATS))
