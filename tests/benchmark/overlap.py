"""How much of a slow network the sequence axis hides: a delay on every transfer, and what it adds to the step.

    PYTHONPATH=.:tests python tests/benchmark/overlap.py

The wire of a core is exchanged for one whose messages arrive late: `wait` returns no sooner than `delay` after
both sides had started the transfer. What was computed in between hides the delay, the rest makes the step longer:

    full, ring      keys 1   keys 2   keys 3      forward: each behind the block before it
                    local  | part 1 | part 2 | part 3
                    keys 1   keys 2   keys 3      backward: the same, and gradients of part s behind part s + 1;
                             grads 1  grads 2  GRADS 3      only the last are waited for with nothing left to do
    by exchange     one message behind the local calls, forward and backward (windowed layers; short documents)

So of the 3 (n - 1) transfers of a full layer on n ranks one is exposed, and of the others none. That is also counted
without a clock, as in tests/parity/test_sequence_overlap.py: a transfer is `exposed` if its rank called no kernel
between starting it and waiting for it. The delay is half, and nine tenths, of the shortest forward computation that
a transfer may hide behind (`cover`), measured before. Steps with and without it alternate; growth is the
difference of the quickest of each, on the slowest rank.

    computed    2 ranks on this machine's cores; a layer alone, and training steps of a hybrid model
    pretended   ranks whose kernels sleep for as long as their visible pairs say, as if each had its own device

`added` is the sum of the delays on the rank with most transfers. Prints a table and writes
`outputs/benchmarks/overlap.json`. The promise: less than half of what was added shows.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ring_side_by_side import MODELS, SHAPE, WINDOW, Held, positions, train_step
from torch import Tensor

from model.attention.core import choose_core
from model.attention.segments import BandedSegments, SegmentKernel, Segments
from model.documents import Documents
from model.initialization import initialize
from model.reach import Reach
from model.transformer import Transformer
from parallel.mesh import Mesh, start
from parallel.sequence.dealing import deal_zigzag
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.local import attend_calls
from parallel.sequence.merge import put_part
from parallel.sequence.route import Call, Route
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.wire import Wire
from parallel.topology import Topology
from parallel.transfer import Transfer
from ranks import run_on_ranks
from tests.layer_kinds import kind_of
from tests.parity.test_sequence_overlap import Watch, WatchedTransfer, watched_cores

OUTPUT = Path("outputs/benchmarks/overlap.json")
CPU = torch.device("cpu")
TOKENS = 8192
SHORT = 1000
FRACTIONS = (0.5, 0.9)
ROUNDS = 8
# Kind of layer -> its reach and the documents of its stream.
LAYERS: dict[str, tuple[Reach, tuple[int, ...]]] = {
    "full, ring": (Reach(), (TOKENS,)),
    "full, exchange": (Reach(), (*(SHORT,) * (TOKENS // SHORT), TOKENS % SHORT)),
    "windowed": (Reach(WINDOW), (TOKENS,)),
}
EXCHANGED = ("full, exchange",)
RUNS = (("computed", 2), ("pretended", 2), ("pretended", 4))
# What a pretended pair of query and key costs forward, and how much more it does backward.
SECONDS_A_PAIR, BACKWARD_OVER_FORWARD = 2e-8, 2.5


@dataclass
class Delays(Watch):
    """What is counted, and the seconds that each transfer takes at least."""

    seconds: float = 0.0

    def begin(self, seconds: float) -> None:
        """Count from 0, with another delay."""
        self.seconds, self.transfers, self.exposed = seconds, 0, 0


class LateTransfer(WatchedTransfer):
    """A transfer that takes its delay from when both sides had started it."""

    def __init__(self, transfer: Transfer, stamps: Transfer, delays: Delays) -> None:
        super().__init__(transfer, delays)
        self._stamps, self._seconds = stamps, delays.seconds
        self._started = time.perf_counter()

    def wait(self) -> Tensor:
        """The received rows."""
        rows = super().wait()
        # One clock serves all processes of a machine.
        started = max(self._started, *self._stamps.wait().tolist(), 0.0)
        time.sleep(max(0.0, started + self._seconds - time.perf_counter()))
        return rows


@dataclass(frozen=True)
class SlowWire(Wire):
    """The same wire, but every message takes a while. Beside each goes the time at which it was sent."""

    delays: Delays

    def swap(self, send_R2GK: Tensor, distance: int, receive_R2GK: Tensor) -> Transfer:
        """See `Wire`."""
        sends, receives = min(1, len(send_R2GK)), min(1, len(receive_R2GK))
        transfer = super().swap(send_R2GK, distance, receive_R2GK)
        if not sends + receives:
            return transfer
        stamps = super().swap(now(sends), distance, now(receives))
        return LateTransfer(transfer, stamps, self.delays)

    def exchange(
        self, send_R2GK: Tensor, send_rows: tuple[int, ...], receive_rows: tuple[int, ...]
    ) -> Transfer:
        """See `Wire`."""
        transfer = super().exchange(send_R2GK, send_rows, receive_rows)
        once = (1,) * self.axis.size
        stamps = super().exchange(now(self.axis.size), once, once)
        return LateTransfer(transfer, stamps, self.delays)


def now(count: int) -> Tensor:
    """The time, so many times."""
    return torch.full((count,), time.perf_counter(), dtype=torch.float64)


class Sleeper:
    """A `SegmentKernel` that takes its time and computes nothing."""

    def forward(self, *given: Any) -> tuple[Tensor, Tensor]:
        """Zeros."""
        q_THK, _, _, segments = given
        time.sleep(SECONDS_A_PAIR * visible_pairs(segments))
        return torch.zeros_like(q_THK), q_THK.new_zeros(q_THK.shape[:2])

    def backward(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros."""
        _, q_THK, k_SGK, v_SGK, _, _, segments = given
        time.sleep(BACKWARD_OVER_FORWARD * SECONDS_A_PAIR * visible_pairs(segments))
        return torch.zeros_like(q_THK), torch.zeros_like(k_SGK), torch.zeros_like(v_SGK)


def visible_pairs(segments: Segments) -> int:
    """Queries times the keys they see."""
    total = 0
    for queries, keys in zip(segments.query_lengths, segments.key_lengths, strict=True):
        if not segments.causal:
            total += queries * keys
            continue
        window = segments.window or keys
        # Query i sees keys - queries + i + 1 keys, at most the window.
        growing = min(queries, max(0, window - (keys - queries) - 1))
        total += growing * (keys - queries) + growing * (growing + 1) // 2
        total += (queries - growing) * window
    return total


def shortest_cover(route: Route, kernel: SegmentKernel, q_THK: Tensor, kv_T2GK: Tensor) -> float:
    """Seconds of the shortest forward computation that a transfer of this route runs beside."""
    blocks: list[Sequence[Call]] = [route.local, *(step.calls for step in route.steps[:-1])]
    into = (torch.empty_like(q_THK), q_THK.new_empty(q_THK.shape[:2]))
    found = []
    for calls in blocks:
        seconds = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            attend_calls(kernel, calls, q_THK, kv_T2GK, into, put_part)
            seconds.append(time.perf_counter() - begin)
        found.append(min(seconds))
    return min(found)


def least(seconds: float) -> float:
    """Over all ranks. Collective."""
    value = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return value.item()


def longest(seconds: Sequence[float]) -> list[float]:
    """Of each entry, over all ranks. Collective."""
    values = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values.tolist()


def grow(step: Callable[[], tuple[float, float]], delays: Delays, delay: float) -> dict[str, float]:
    """What the delay does to forward and backward, in seconds. Collective."""
    without, late, counts = [], [], []
    for number in range(2 * ROUNDS):
        delays.begin(delay * (number % 2))
        dist.barrier()
        *seconds, count, exposed = longest([*step(), delays.transfers, delays.exposed])
        (late if number % 2 else without).append(seconds)
        counts.append(count)
    # The quickest of each: on a shared machine the others waited for somebody else.
    forward, backward, whole = (
        min(part(one) for one in late) - min(part(one) for one in without)
        for part in (itemgetter(0), itemgetter(1), sum)
    )
    added = delay * max(counts)
    return {
        "delay": delay,
        "transfers": max(counts),
        "exposed": exposed,
        "step": min(sum(one) for one in without),
        "added": added,
        "forward": forward,
        "backward": backward,
        "grown": whole,
        "ratio": whole / added,
    }


def layer_step(core: Any, tensors: list[Tensor], layout: Any, reach: Reach) -> tuple[float, float]:
    """Seconds of one layer's attention forward and backward."""
    *inputs, upstream = tensors
    leaves = [x.detach().requires_grad_() for x in inputs]
    begin = time.perf_counter()
    out = core(*leaves, layout, reach)
    middle = time.perf_counter()
    torch.autograd.grad(out, leaves, upstream)
    return middle - begin, time.perf_counter() - middle


def measure_layers(kind: str, mesh: Mesh) -> list[dict[str, Any]]:
    """Every kind of layer and delay."""
    delays, size, rank = Delays(), mesh.sequence.size, mesh.sequence.rank
    kernel: Any = BandedSegments()
    heads = (SHAPE["num_heads"], SHAPE["num_kv_heads"], SHAPE["head_dim"])
    if kind == "pretended":
        kernel, heads = Sleeper(), (1, 1, 4)
    full, windowed = watched_cores(mesh, delays, kernel, SlowWire)
    dealing = deal_zigzag(TOKENS, size)
    tensors = [
        torch.randn(TOKENS // size, n, heads[2]) for n in (heads[0], heads[1], heads[1], heads[0])
    ]
    found = []
    for layer, (reach, lengths) in LAYERS.items():
        transport = "exchange" if layer in EXCHANGED else "ring"
        layout = ShardedLayout.from_share(
            build_share(dealing, Documents.of(lengths), rank, {kind_of(reach): reach}, transport)
        )
        route = layout.routes[kind_of(reach)]
        keys_T2GK = torch.stack((tensors[1], tensors[2]), dim=1)
        cover = least(shortest_cover(route, kernel, tensors[0], keys_T2GK))
        core = full if reach.window is None else windowed
        step = partial(layer_step, core, tensors, layout, reach)
        step()
        for fraction in FRACTIONS:
            case = {"runs": kind, "layer": layer, "ranks": size, "cover": cover}
            found.append(case | {"fraction": fraction} | grow(step, delays, fraction * cover))
    return found


def measure_model(covers: Mapping[str, float], mesh: Mesh) -> list[dict[str, Any]]:
    """Training steps of the hybrid model on one document."""
    config, delays = MODELS["hybrid"], Delays()
    size, rank = mesh.sequence.size, mesh.sequence.rank
    model = Transformer(config, choose_core("auto", CPU, torch.float32))
    initialize(model, config, seed=0)
    dealing = deal_zigzag(TOKENS, size)
    share = build_share(
        dealing, Documents.of((TOKENS,)), rank, {"full": Reach(), "window": Reach(WINDOW)}, "ring"
    )
    layout = ShardedLayout.from_share(share)
    cores = watched_cores(mesh, delays, BandedSegments(), SlowWire)
    held = Held(layout, positions(dealing, rank), *cores, TrafficMeter())
    tokens_T = torch.arange(TOKENS) * 7919 % config.vocab_size

    def step() -> tuple[float, float]:
        begin = time.perf_counter()
        train_step(model, held, tokens_T, tokens_T.roll(-1), [])
        return 0.0, time.perf_counter() - begin

    step()
    cover = min(covers["full, ring"], covers["windowed"])
    case = {"runs": "computed", "layer": "hybrid model", "ranks": size, "cover": cover}
    return [
        case | {"fraction": fraction} | grow(step, delays, fraction * cover)
        for fraction in FRACTIONS
    ]


def run(kind: str, size: int) -> list[dict[str, Any]]:
    """All measurements of a kind on so many ranks."""

    def work(rank: int, world_size: int) -> list[dict[str, Any]]:
        mesh = start(CPU, 300, Topology(sequence=world_size))
        found = measure_layers(kind, mesh)
        if kind == "computed":
            found += measure_model({case["layer"]: case["cover"] for case in found}, mesh)
        return found

    return run_on_ranks(work, size, timeout=1800)[0]


def main() -> None:
    """Measure, print the table, write the file."""
    torch.set_num_threads(1)
    write = sys.stdout.write
    write(f"{TOKENS:,} tokens, window {WINDOW}; times in milliseconds\n")
    write(f"{'runs':10}{'layer':15}{'ranks':>6}{'step':>8}{'cover':>7}{'delay':>7}")
    write(f"{'transfers':>11}{'exposed':>9}{'added':>8}{'grew':>8}{'grew/added':>12}\n")
    cases = [case for kind, size in RUNS for case in run(kind, size)]
    for case in cases:
        step, cover, delay, added, grown = (
            1e3 * case[key] for key in ("step", "cover", "delay", "added", "grown")
        )
        write(f"{case['runs']:10}{case['layer']:15}{case['ranks']:>6}")
        write(f"{step:8.1f}{cover:7.1f}{delay:7.1f}{case['transfers']:11.0f}{case['exposed']:9.0f}")
        write(f"{added:8.1f}{grown:8.1f}{case['ratio']:12.2f}\n")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
