"""Time and memory of one attention layer, forward and backward, on every backend.

Operations are those of `model/flops.py`: 12 x heads x head_dim for every visible pair of query and
key (4 forward, 8 backward), so a windowed or packed layer is credited only with what it has to do.
A case that does not fit the memory is a row that says so.
"""

import gc
from dataclasses import asdict, dataclass
from itertools import cycle

import torch
from attention_accuracy import able_backends
from machine import GIB, Machine
from outcome import Outcome

from model.attention.core import AttentionCore
from model.flops import score_pairs
from model.packed_layout import PackedLayout
from model.reach import Reach

LENGTHS = (8_192, 32_768, 131_072)
HEADS, KEY_HEADS, HEAD_DIM, WINDOW = 32, 8, 128, 4_096
# Documents of a packed stream, again and again: three under the window, one over it.
DOCUMENTS = (512, 7_680, 2_048, 4_096)
FLOPS_PER_PAIR = 12
SECONDS_PER_CASE = 0.25
# The oracle and the CPU's path, shown once: one document of the shortest length.
SLOW = ("dense", "banded")


@dataclass(frozen=True)
class Shape:
    """One layer over one stream."""

    documents: str
    lengths: tuple[int, ...]
    window: int | None
    heads: int
    key_heads: int
    head_dim: int

    @property
    def flops(self) -> int:
        """Operations of a forward and backward."""
        return (
            FLOPS_PER_PAIR
            * self.heads
            * self.head_dim
            * score_pairs(self.lengths, Reach(self.window))
        )


def packed(tokens: int, scale: int = 1) -> tuple[int, ...]:
    """Documents, `scale` times shorter than usual, that fill `tokens` exactly; the last one is cut."""
    lengths: list[int] = []
    for length in cycle(document // scale for document in DOCUMENTS):
        left = tokens - sum(lengths)
        if left <= length:
            return (*lengths, left)
        lengths.append(length)
    raise AssertionError("cycle never ends")


def shapes(machine: Machine) -> list[Shape]:
    """Every length, one document and packed, windowed and full."""
    scale = 64 if machine.rehearsal else 1
    heads = (4, 1, 32) if machine.rehearsal else (HEADS, KEY_HEADS, HEAD_DIM)
    return [
        Shape(name, lengths, window, *heads)
        for tokens in (LENGTHS[:1] if machine.rehearsal else LENGTHS)
        for name, lengths in (
            ("one", (tokens // scale,)),
            ("packed", packed(tokens // scale, scale)),
        )
        for window in (WINDOW // scale, None)
    ]


def check_throughput(machine: Machine) -> Outcome:
    """Measure every backend; nothing here fails but a kernel that refuses."""
    able, _ = able_backends(machine)
    outcome = Outcome(
        "One attention layer, forward and backward, bfloat16",
        ("tokens", "documents", "window", "backend", "ms", "TFLOP/s", "peak GiB"),
    )
    for shape in shapes(machine):
        for name, core in able.items():
            if name in SLOW and (len(shape.lengths) > 1 or sum(shape.lengths) > LENGTHS[0]):
                continue
            measured = measure(core, shape, machine)
            if "failed" in measured:
                outcome.failures.append(f"{name}: {shape}: {measured['failed']}")
            outcome.numbers.append({"backend": name, **asdict(shape), **measured})
            outcome.rows.append(
                (
                    f"{sum(shape.lengths):,}",
                    shape.documents,
                    f"{shape.window:,}" if shape.window else "full",
                    name,
                    *_cells(measured),
                )
            )
    outcome.notes.append(
        f"Heads {HEADS}/{KEY_HEADS} of {HEAD_DIM}; packed: documents of {DOCUMENTS} tokens in turn; "
        "medians; operations of visible pairs only; peak with inputs and gradients."
    )
    return outcome


def measure(core: AttentionCore, shape: Shape, machine: Machine) -> dict[str, float | str]:
    """milliseconds, tflops and peak_bytes; or `failed`, why there are none."""
    failed = ""
    try:
        return _measure(core, shape, machine)
    except torch.OutOfMemoryError:
        failed = "out of memory"
    except RuntimeError as error:
        failed = str(error).splitlines()[0]
    finally:
        gc.collect()
    machine.forget()
    return {"failed": failed} if failed != "out of memory" else {"out_of_memory": failed}


def _measure(core: AttentionCore, shape: Shape, machine: Machine) -> dict[str, float | str]:
    machine.forget()
    tokens = sum(shape.lengths)
    layout = PackedLayout.from_lengths(shape.lengths, machine.device)
    q, k, v, upstream = (
        torch.randn(tokens, heads, shape.head_dim, device=machine.device, dtype=torch.bfloat16)
        for heads in (shape.heads, shape.key_heads, shape.key_heads, shape.heads)
    )
    trained = [x.requires_grad_() for x in (q, k, v)]

    def step() -> None:
        out = core(q, k, v, layout, Reach(shape.window))
        torch.autograd.grad(out, trained, upstream)

    seconds = 0.05 if machine.rehearsal else SECONDS_PER_CASE
    milliseconds = machine.median_milliseconds(step, seconds=seconds)
    return {
        "milliseconds": milliseconds,
        "tflops": shape.flops / milliseconds * 1e-9,
        "peak_bytes": float(machine.peak_bytes()),
    }


def _cells(measured: dict[str, float | str]) -> tuple[str, str, str]:
    why = measured.get("failed") or measured.get("out_of_memory")
    if why:
        return (str(why), "-", "-")
    return (
        f"{measured['milliseconds']:.1f}",
        f"{measured['tflops']:.1f}",
        f"{float(measured['peak_bytes']) / GIB:.2f}",
    )
