"""Rounding error of ring attention as the ring grows: output and key gradients against float64.

    PYTHONPATH=.:tests python tests/benchmark/ring_error.py

One document over the whole stream, zigzag, so every step of the ring has keys to merge, in float32 and in
bfloat16; the windowed layer, which merges nothing, beside the full one. The truth is the dense formula in
float64 on the same rounded inputs. An error is the root mean square of the difference over that of the truth;
"worst" is the largest single difference over the same. Prints a table and writes
`outputs/benchmarks/ring_error.json`. The claim it measures: partial results, log-sum-exp and dK/dV are joined in
float32, so the error does not grow with the ring.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.attention.core import AttentionCore
from model.attention.dense import DenseCore
from model.documents import Documents
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.mesh import start
from parallel.sequence.dealing import deal_zigzag
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.ring import RingCore
from parallel.sequence.window import WindowCore
from parallel.topology import Topology
from ranks import run_on_ranks
from tests.layer_kinds import kind_of

OUTPUT = Path("outputs/benchmarks/ring_error.json")
TOKENS, WINDOW, HEADS, KEY_HEADS, HEAD_DIM = 2048, 300, 4, 2, 32
SIZES = (1, 2, 4, 8)
DTYPES = (torch.float32, torch.bfloat16)
DENSE = 0  # the plain formula in the same dtype, on one process
QUANTITIES = ("output", "dq", "dk", "dv")


@dataclass(frozen=True)
class Row:
    """One line of the table. ring_size 0: the dense formula itself."""

    dtype: str
    layer: str
    ring_size: int
    error: dict[str, float]
    worst: dict[str, float]


def inputs(dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys, values and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    widths = (HEADS, KEY_HEADS, KEY_HEADS, HEADS)
    return [torch.randn(TOKENS, n, HEAD_DIM, generator=generator).to(dtype) for n in widths]


def attend(
    core: AttentionCore, tensors: list[Tensor], layout: PackedLayout, reach: Reach
) -> list[Tensor]:
    """Output and gradients."""
    *leaves, upstream = (x.clone().requires_grad_() for x in tensors)
    out = core(*leaves, layout, reach)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.detach())]


def on_ring(size: int, dtype: torch.dtype, reach: Reach) -> list[Tensor]:
    """The same from `size` ranks, put together again."""
    dealing = deal_zigzag(TOKENS, size)
    held = [[p for piece in dealing.ranges(rank) for p in piece] for rank in range(size)]

    def work(rank: int, world_size: int) -> list[Tensor]:
        mesh = start(torch.device("cpu"), 600, Topology(sequence=size))
        core = (
            RingCore("full", mesh.sequence)
            if reach.window is None
            else WindowCore("window", mesh.window)
        )
        share = build_share(dealing, Documents.of([TOKENS]), rank, {kind_of(reach): reach}, "ring")
        local = [x[held[rank]] for x in inputs(dtype)]
        return attend(core, local, ShardedLayout.from_share(share), reach)

    parts = run_on_ranks(work, size, timeout=600)
    whole = []
    for pieces in zip(*parts, strict=True):
        joined = torch.empty(TOKENS, *pieces[0].shape[1:], dtype=dtype)
        for rows, piece in zip(held, pieces, strict=True):
            joined[rows] = piece
        whole.append(joined)
    return whole


def compare(
    found: list[Tensor], truths: list[Tensor], dtype: torch.dtype, layer: str, size: int
) -> Row:
    """Relative errors of all four quantities."""
    error, worst = {}, {}
    for name, ours, truth in zip(QUANTITIES, found, truths, strict=True):
        scale = truth.square().mean().sqrt()
        difference = ours.double() - truth
        error[name] = (difference.square().mean().sqrt() / scale).item()
        worst[name] = (difference.abs().max() / scale).item()
    return Row(str(dtype).removeprefix("torch."), layer, size, error, worst)


def main() -> None:
    """Measure every size, print the table, write the file."""
    torch.set_num_threads(1)
    write = sys.stdout.write
    layout = PackedLayout.from_lengths([TOKENS])
    write(f"one document of {TOKENS} tokens, heads {HEADS}/{KEY_HEADS}, head_dim {HEAD_DIM}; ")
    write("error: root mean square of the difference over that of the truth\n")
    header = "".join(f"{name:>11}" for name in (*QUANTITIES, "worst dk"))
    write(f"{'dtype':10}{'layer':8}{'ring':>6}{header}\n")
    rows = []
    for dtype in DTYPES:
        for layer, reach in (("full", Reach()), ("window", Reach(WINDOW))):
            exact = [x.double() for x in inputs(dtype)]
            truths = attend(DenseCore(), exact, layout, reach)
            plain = attend(DenseCore(), inputs(dtype), layout, reach)
            rows.append(compare(plain, truths, dtype, layer, DENSE))
            for size in SIZES:
                found = on_ring(size, dtype, reach)
                rows.append(compare(found, truths, dtype, layer, size))
    for row in rows:
        values = [*row.error.values(), row.worst["dk"]]
        ring = str(row.ring_size) if row.ring_size else "dense"
        write(f"{row.dtype:10}{row.layer:8}{ring:>6}")
        write("".join(f"{value:11.2e}" for value in values) + "\n")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "tokens": TOKENS,
        "window": WINDOW,
        "heads": HEADS,
        "key_value_heads": KEY_HEADS,
        "head_dim": HEAD_DIM,
        "dealing": "zigzag",
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }
    OUTPUT.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
