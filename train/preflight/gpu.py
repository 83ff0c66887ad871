"""The health of a GPU: a product whose result is checked, and what nvidia-smi says."""

import subprocess
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from train.preflight.facts import Gpu, GpuState

# Rows and columns of the product.
_SIDE = 4096
_REPEATS = 10
# A quarter of the numbers are not zero: sums of 4,096 products stay below 256, which bfloat16 holds exactly.
_ZEROS = 0.75
_QUERY = (
    "uuid",
    "driver_version",
    "temperature.gpu",
    "ecc.errors.uncorrected.volatile.total",
)
# The same bits; drivers before 535 know the second name only.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# NVML's nvmlClocksThrottleReason: those that a sound machine does not show. Idle, power cap and user settings are.
HARMFUL_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


def look_at_gpu(device: torch.device) -> Gpu:
    """This rank's GPU, tried with a product of matrices; takes about a second, most of it cuBLAS' start."""
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    flops, right = _product(device)
    return Gpu(
        uuid=normal_uuid(str(properties.uuid)),
        name=properties.name,
        total=total,
        used_by_others=max(0, total - free - held),
        flops=flops,
        wrong=not right,
    )


def _product(device: torch.device) -> tuple[float, bool]:
    """FLOPs a second of a product in bfloat16, and whether it is right."""
    a, b, vectors = draw_matrices(_SIDE, device)
    product = a @ b
    right = is_product(product, a, b, vectors[:, :1])
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(_REPEATS):
        torch.mm(a, b, out=product)
    torch.cuda.synchronize(device)
    return _REPEATS * 2.0 * _SIDE**3 / (time.perf_counter() - began), right


def draw_matrices(side: int, device: torch.device) -> Tensor:
    """Three (side, side) of -1, 0 and 1 in bfloat16, the same every time."""
    draw = torch.Generator(device).manual_seed(0)
    shape = (3, side, side)
    dense = torch.rand(shape, generator=draw, device=device) > _ZEROS
    signs = torch.rand(shape, generator=draw, device=device) > 0.5
    return (dense * (2 * signs.int() - 1)).to(torch.bfloat16)


def is_product(product: Tensor, a: Tensor, b: Tensor, vector: Tensor) -> bool:
    """Freivalds' test (1977), exact for small integers: whether product v = a (b v)."""
    v = vector.double()
    return torch.equal(product.double() @ v, a.double() @ (b.double() @ v))


def forget_memory(device: torch.device) -> None:
    """Give back what the tests took, and leave no trace of it in the peak that a run reports."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def ask_nvidia_smi(seconds: float = 20.0) -> dict[str, GpuState]:
    """The GPUs of this host by UUID; none where nvidia-smi is missing, old or stuck."""
    for reasons in _REASONS:
        fields = [*_QUERY, reasons]
        command = [
            "nvidia-smi",
            f"--query-gpu={','.join(fields)}",
            "--format=csv,noheader,nounits",
        ]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except (OSError, subprocess.SubprocessError):
            return {}
        if answer.returncode == 0:
            return parse_nvidia_smi(answer.stdout)
    return {}


def parse_nvidia_smi(text: str) -> dict[str, GpuState]:
    """Lines of UUID, driver, temperature, uncorrected errors and slowdown bits; others are passed over."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_QUERY) + 1 and cells[0].startswith("GPU-"):
            found[normal_uuid(cells[0])] = _state(cells)
    return found


def _state(cells: Sequence[str]) -> GpuState:
    _, driver, temperature, errors, slowed_by = cells
    return GpuState(driver, _number(temperature), _number(errors), _number(slowed_by) or 0)


def _number(cell: str) -> int | None:
    """A decimal or hexadecimal number; None for "[N/A]", "[Not Supported]" and the like."""
    try:
        return int(cell, 0)
    except ValueError:
        return None


def normal_uuid(uuid: str) -> str:
    """torch leaves out the "GPU-" that nvidia-smi begins with."""
    return uuid.removeprefix("GPU-").lower()
