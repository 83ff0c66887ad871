"""The machine under test: its clock, its memory, its versions.

Everything that differs between a CUDA device and the CPU of a rehearsal is asked here, so the parts
of the check run unchanged on both. On a CPU there is no peak memory to read: it is 0.
"""

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from outcome import Outcome

PACKAGES = (
    "torch",
    "triton",
    "deepspeed",
    "flash-attn",
    "flash-attn-4",
    "transformers",
    "numpy",
    "sentencepiece",
)
GIB = 2**30
WARM_UPS, FEWEST_REPEATS, MOST_REPEATS = 2, 3, 20


@dataclass(frozen=True)
class Machine:
    """The device the check runs on. rehearsal: everything small, to try the check itself."""

    device: torch.device
    rehearsal: bool
    # On the clock of `time.monotonic`: a part begins nothing new after it.
    deadline: float = math.inf
    # Parts hand their unfinished outcome here after every row, so that nothing measured is lost.
    record: Callable[[Outcome], None] = lambda outcome: None  # noqa: ARG005

    @property
    def seconds_left(self) -> float:
        """Until the deadline; negative behind it."""
        return self.deadline - time.monotonic()

    @property
    def memory_bytes(self) -> int:
        """Of the device; of a CPU as much as a small GPU has."""
        if self.is_cuda:
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return 16 * GIB

    @property
    def host_bytes_free(self) -> int:
        """Memory of the host that a process can still have, as Linux estimates it."""
        return _meminfo("MemAvailable")

    @property
    def host_bytes(self) -> int:
        """Memory of the host."""
        return _meminfo("MemTotal")

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    @property
    def is_cuda(self) -> bool:
        """Whether memory and time are a GPU's."""
        return self.device.type == "cuda"

    def forget(self) -> None:
        """Give cached memory back and begin a new peak."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def begin_peak(self) -> None:
        """Begin a new peak and keep cached memory: what is timed next need not ask for it again."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """Most memory held by tensors since `forget` or `begin_peak`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.is_cuda else 0

    def median_milliseconds(self, work: Callable[[], object], *, seconds: float) -> float:
        """Median time of one call, on the device, over as many calls as `seconds` allow (3 to 20).

        Behind the deadline one call has to do.
        """
        for _ in range(1 if self.rehearsal else WARM_UPS):
            work()
        once = self._once_cuda if self.is_cuda else self._once_cpu
        found = [once(work)]
        while self.seconds_left > 0 and (
            len(found) < FEWEST_REPEATS
            or (sum(found) < 1e3 * seconds and len(found) < MOST_REPEATS)
        ):
            found.append(once(work))
        return statistics.median(found)

    @staticmethod
    def _once_cuda(work: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    @staticmethod
    def _once_cpu(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - begin)

    def describe(self) -> dict[str, str]:
        """Device and versions, as they stand in the record."""
        found = {"device": self.device.type, "python": platform.python_version()}
        for package in PACKAGES:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "absent"
        if self.is_cuda:
            facts = torch.cuda.get_device_properties(self.device)
            found |= {
                "device": facts.name,
                "memory_gib": f"{facts.total_memory / GIB:.0f}",
                "compute_capability": f"{facts.major}.{facts.minor}",
                "cuda": str(torch.version.cuda),
                "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
                "nccl": str(torch.cuda.nccl.version()),  # type: ignore[no-untyped-call]
            }
        return found


def _meminfo(name: str) -> int:
    """A row of /proc/meminfo, in bytes."""
    rows = (row.split() for row in Path("/proc/meminfo").read_text().splitlines())
    return next(1024 * int(row[1]) for row in rows if row[0] == f"{name}:")
