"""Checks a GPU: a matrix product whose result is verified, and the values of nvidia-smi."""

import subprocess
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from train.preflight.facts import Gpu, GpuState

# Rows and columns of the product.
_SIDE = 4096
_REPEATS = 10
# A quarter of the entries are not zero: sums of 4,096 products stay below 256, which bfloat16 represents exactly.
_ZEROS = 0.75
_QUERY = (
    "uuid",
    "driver_version",
    "temperature.gpu",
    "ecc.errors.uncorrected.volatile.total",
)
# Two names of the same bits; drivers before 535 have only the second.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# Bits of NVML's nvmlClocksThrottleReason that mean a fault. Idle, power cap and user settings are normal.
HARMFUL_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


def look_at_gpu(device: torch.device) -> Gpu:
    """Returns the facts of this rank's GPU, tested by a matrix product; takes about 1 s, mostly the start of cuBLAS."""
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
    """Returns the FLOP/s of a product in bfloat16, and whether its result is right."""
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
    """Returns three (side, side) matrices of -1, 0 and 1 in bfloat16, the same at every call."""
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
    """Frees the memory of the tests, and resets the peak that a run reports."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def ask_nvidia_smi(seconds: float = 20.0) -> dict[str, GpuState]:
    """Returns the GPUs of this host by UUID; none if nvidia-smi is missing, old or hangs."""
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
    """Parses lines of UUID, driver, temperature, uncorrected errors and slowdown bits; ignores others."""
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
    """Parses a decimal or hexadecimal number; None for "[N/A]", "[Not Supported]" and the like."""
    try:
        return int(cell, 0)
    except ValueError:
        return None


def normal_uuid(uuid: str) -> str:
    """Returns a UUID without the prefix "GPU-", which nvidia-smi has and torch has not."""
    return uuid.removeprefix("GPU-").lower()
