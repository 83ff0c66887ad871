"""Time and memory of one attention layer, forward and backward, banded beside dense.

    PYTHONPATH=.:tests python tests/benchmark/attention.py

Every case runs in a process of its own, so that its peak memory is its own, on one thread. Times
are CPU times: what they would be on an idle machine, however busy this one is. Prints a table and
writes `outputs/benchmarks/attention.json`. The claim it measures: at a fixed window, four times the
length costs a windowed layer at most five times the time and memory.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from model.attention.core import choose_core
from model.packed_layout import PackedLayout
from model.reach import Reach

OUTPUT = Path("outputs/benchmarks/attention.json")
WINDOW, HEADS, KEY_HEADS, HEAD_DIM = 128, 4, 2, 64
MEASURED_SECONDS, MOST_REPEATS = 2.0, 40
WARM_UP_TOKENS = 256
NO_WINDOW = 0


@dataclass(frozen=True)
class Case:
    """One measurement: core, tokens of the single document, and window (0: none)."""

    core: str
    tokens: int
    window: int


CASES = (
    Case("banded", 1024, WINDOW),
    Case("dense", 1024, WINDOW),
    Case("banded", 4096, WINDOW),
    Case("dense", 4096, WINDOW),
    Case("banded", 16384, WINDOW),
    Case("banded", 1024, NO_WINDOW),
    Case("banded", 4096, NO_WINDOW),
)


def peak_bytes() -> int:
    """The largest resident memory of this process since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def reset_peak() -> None:
    """Linux: writing 5 sets the peak back to the memory resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(case: Case) -> dict[str, float]:
    """CPU seconds (best of several) and bytes beyond the inputs, of forward and backward."""
    torch.set_num_threads(1)
    core = choose_core(case.core, "cpu", torch.float32)

    def prepare(tokens: int) -> Callable[[], float]:
        q, k, v = (
            torch.randn(tokens, heads, HEAD_DIM, requires_grad=True)
            for heads in (HEADS, KEY_HEADS, KEY_HEADS)
        )
        upstream = torch.randn(tokens, HEADS, HEAD_DIM)
        layout = PackedLayout.from_lengths([tokens])

        def step() -> float:
            start = time.process_time()
            out = core(q, k, v, layout, Reach(case.window or None))
            torch.autograd.grad(out, (q, k, v), upstream)
            return time.process_time() - start

        return step

    prepare(WARM_UP_TOKENS)()
    step = prepare(case.tokens)
    reset_peak()
    before = peak_bytes()
    seconds = [step()]
    extra = peak_bytes() - before
    while sum(seconds) < MEASURED_SECONDS and len(seconds) < MOST_REPEATS:
        seconds.append(step())
    return {"seconds": min(seconds), "peak_bytes": extra}


def measure_apart(case: Case) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, case.core, str(case.tokens), str(case.window)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def growth(measured: dict[Case, dict[str, float]], short: Case, long: Case) -> dict[str, float]:
    """How many times the cost of `short` is the cost of `long`."""
    return {key: measured[long][key] / measured[short][key] for key in ("seconds", "peak_bytes")}


def main() -> None:
    """Measure every case, print the table, write the file."""
    write = sys.stdout.write
    measured = {}
    write(f"window {WINDOW}, heads {HEADS}/{KEY_HEADS}, head_dim {HEAD_DIM}, float32, 1 thread\n")
    write(f"{'core':8}{'layer':>8}{'tokens':>8}{'cpu ms':>10}{'peak MiB':>10}\n")
    for case in CASES:
        measured[case] = measure_apart(case)
        seconds, extra = measured[case]["seconds"], measured[case]["peak_bytes"]
        layer = "window" if case.window else "full"
        write(f"{case.core:8}{layer:>8}{case.tokens:8}{seconds * 1e3:10.1f}{extra / 2**20:10.1f}\n")
    growths = {
        f"{core} {layer} {short}->{4 * short}": growth(
            measured, Case(core, short, window), Case(core, 4 * short, window)
        )
        for core, layer, window, short in (
            ("banded", "window", WINDOW, 1024),
            ("banded", "window", WINDOW, 4096),
            ("dense", "window", WINDOW, 1024),
            ("banded", "full", NO_WINDOW, 1024),
        )
    }
    for name, ratio in growths.items():
        write(f"{name}: {ratio['seconds']:.2f} x time, {ratio['peak_bytes']:.2f} x memory\n")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "head_dim": HEAD_DIM,
        "heads": HEADS,
        "key_value_heads": KEY_HEADS,
        "threads": 1,
        "dtype": "float32",
        "torch": torch.__version__,
        "cases": [{**asdict(case), **cost} for case, cost in measured.items()],
        "growth_at_four_times_the_length": growths,
    }
    OUTPUT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        only = Case(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        sys.stdout.write(json.dumps(measure(only)))
    else:
        main()
