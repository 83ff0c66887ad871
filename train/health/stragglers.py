"""Finds ranks that are slower than the others.

Ranks that share work finish their steps together, so step times do not show which rank is slow. Every rank
therefore times two things once a step: a small matrix product that needs no other rank, and the wait for its
own data. A throttled GPU, a busy core or a slow disk shows in one of them. The means over a round of steps
are gathered; a rank whose product was slow in two rounds in a row is reported.
"""

import socket
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from parallel.mesh import Mesh

# Side of the square matrices: the product takes well under 1 ms on a GPU, about 1 ms on a core.
_SIDE = {"cuda": 4096, "cpu": 256}
# Warm-up steps of a new process, not counted.
_WARM = 2


@dataclass(frozen=True)
class Round:
    """Means over one round of steps for all ranks: time of the product, wait for data; (ranks,), in seconds."""

    probe: Tensor
    data: Tensor

    @property
    def slowest(self) -> int:
        """Returns the rank whose product took longest."""
        return int(self.probe.argmax())

    @property
    def slowdown(self) -> float:
        """Returns the ratio of the longest product time to the median."""
        return float(self.probe.max() / self.probe.median())

    def slow(self, factor: float) -> set[int]:
        """Returns the ranks whose product took more than `factor` times the median."""
        return set((self.probe > factor * self.probe.median()).nonzero().flatten().tolist())

    def row(self) -> dict[str, float]:
        """Returns the values for metrics and W&B."""
        return {
            "slowest_rank": self.slowest,
            "slowdown": self.slowdown,
            "data_rank": int(self.data.argmax()),
            "data_seconds": float(self.data.max()),
        }


class Stragglers:
    """Times this rank at every step; compares all ranks every `steps` steps. `steps` 0: never.

    Constructed on all ranks together (collective).
    """

    def __init__(self, mesh: Mesh, steps: int, factor: float) -> None:
        self._mesh, self._factor = mesh, factor
        self._steps = steps if mesh.world_size > 1 else 0
        self._hosts = mesh.gather_objects(socket.gethostname())
        side = _SIDE[mesh.device.type]
        dtype = torch.bfloat16 if mesh.device.type == "cuda" else torch.float32
        self._matrix = torch.ones(side, side, dtype=dtype, device=mesh.device)
        self._product = torch.empty_like(self._matrix)
        self._count = -_WARM
        self._probe = self._data = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        self._before: set[int] = set()

    def step(self, data_seconds: float) -> tuple[dict[str, float] | None, list[str]]:
        """Times one product. Every `steps` calls returns metrics and a line for each slow rank. Collective."""
        if not self._steps:
            return None, []
        probed = self._time_probe()
        self._count += 1
        if self._count <= 0:
            return None, []
        self._probe += probed
        self._data += data_seconds
        if self._count < self._steps:
            return None, []
        mine = torch.tensor([self._probe, self._data], dtype=torch.float64) / self._count
        gathered = self._mesh.gather_world(mine)
        self._count, self._probe, self._data = 0, 0.0, 0.0
        found = Round(gathered[:, 0], gathered[:, 1])
        return found.row(), self._lines(found)

    def _lines(self, found: Round) -> list[str]:
        slow = found.slow(self._factor)
        twice, self._before = slow & self._before, slow
        median = float(found.probe.median())
        return [
            f"warning: rank {rank} on {self._hosts[rank]} is slow: a matrix product that needs no other rank takes it "
            f"{float(found.probe[rank]) / median:.1f} times the median, over the last {2 * self._steps} steps"
            for rank in sorted(twice)
        ]

    def _time_probe(self) -> float:
        """Returns the seconds of one product; on a GPU those of the step before, to avoid waiting for the result."""
        if self._mesh.device.type == "cpu":
            started = time.perf_counter()
            torch.mm(self._matrix, self._matrix, out=self._product)
            return time.perf_counter() - started
        if self._events is None:
            self._events = (_event(), _event())
            seconds = 0.0
        else:
            self._events[1].synchronize()
            seconds = self._events[0].elapsed_time(self._events[1]) / 1e3
        torch.mm(
            self._matrix, self._matrix, out=self._product
        )  # hides the launch time of the timed product
        self._events[0].record()
        torch.mm(self._matrix, self._matrix, out=self._product)
        self._events[1].record()
        return seconds


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
