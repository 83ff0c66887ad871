"""Where a step's time goes, from the profiler's list of kernels.

    wall = attention + matrix products + rest + host

Kernels on several streams may overlap, so each part is the length of a union of intervals, less what a
part to its left has taken already; `host` is what no kernel covers: the device waits for Python.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from machine import Machine
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# Parts of lower-case names, first match wins; a CPU's operators stand in for kernels in a rehearsal.
KINDS = {
    "attention": ("flash", "fmha", "sdpa", "attention", "attn"),
    "products": (
        "gemm",
        "nvjet",
        "cutlass",
        "cublas",
        "xmma",
        "splitk",
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
    ),
}
REST = "rest"
_MICROSECOND = 1e-6


@dataclass(frozen=True)
class Span:
    """One kernel: name, begin and end in seconds."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Breakdown:
    """Seconds of one step."""

    wall: float
    attention: float
    products: float
    rest: float
    host: float

    @property
    def shares(self) -> dict[str, float]:
        """The four parts as shares of the wall time; they add up to 1."""
        return {k: v / self.wall for k, v in asdict(self).items() if k != "wall"}


def kind_of(name: str) -> str:
    """attention, products or rest."""
    lower = name.lower()
    return next((kind for kind, parts in KINDS.items() if any(p in lower for p in parts)), REST)


def covered(spans: Iterable[Span]) -> float:
    """Length of the union of the intervals."""
    total, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin):
        total += max(0.0, span.end - max(span.begin, reached))
        reached = max(reached, span.end)
    return total


def break_down(spans: Sequence[Span], wall: float) -> Breakdown:
    """Divide `wall` seconds among the kinds of kernels and the host."""
    attention = [span for span in spans if kind_of(span.name) == "attention"]
    named = [span for span in spans if kind_of(span.name) != REST]
    parts = [covered(attention), covered(named), covered(spans)]
    return Breakdown(
        wall, parts[0], parts[1] - parts[0], parts[2] - parts[1], max(0.0, wall - parts[2])
    )


def longest(spans: Iterable[Span], count: int = 12) -> dict[str, float]:
    """The kernels that take the most seconds, by name (cut short), longest first."""
    seconds: Counter[str] = Counter()
    for span in spans:
        seconds[f"{kind_of(span.name)}: {span.name[:120]}"] += span.end - span.begin
    return dict(seconds.most_common(count))


def profiled(work: Callable[[], object], machine: Machine) -> tuple[float, list[Span]]:
    """Wall seconds of one call of `work` and the kernels it ran; none where the profiler sees none."""
    activity = ProfilerActivity.CUDA if machine.is_cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        machine.wait()
        started = time.perf_counter()
        work()
        machine.wait()
        wall = time.perf_counter() - started
    wanted = DeviceType.CUDA if machine.is_cuda else DeviceType.CPU
    spans = [
        Span(
            event.name,
            event.time_range.start * _MICROSECOND,
            event.time_range.end * _MICROSECOND,
        )
        for event in profiler.events() or ()
        # Ranges that Python named are no kernels.
        if event.device_type == wanted and not getattr(event, "is_user_annotation", False)
    ]
    return wall, spans


def device_matmul_flops(machine: Machine, size: int = 8_192) -> float:
    """FLOP/s of one bfloat16 product of size x size matrices: what this device reaches at best."""
    size = 256 if machine.rehearsal else size
    a, b = (torch.randn(size, size, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    milliseconds = machine.median_milliseconds(lambda: a @ b, seconds=0.1)
    return float(2 * size**3 / (1e-3 * milliseconds))
