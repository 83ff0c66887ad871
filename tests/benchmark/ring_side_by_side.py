"""Training steps over a stream that is cut among ranks: a plain ring's time over ours, side by side.

    PYTHONPATH=.:tests python tests/benchmark/ring_side_by_side.py

Forward and backward of a small Transformer, loss included, on 2 and on 4 gloo ranks of one thread each. The same
model, weights and streams, in the same processes: only the attention cores are exchanged between steps, ours and
the two rivals of `plain_ring.py` in turn. Ours deals chunks `balanced`, the rivals by zigzag, as others do.

    hybrid   3 windowed layers, 1 full one        full    2 full layers
    one      one document                         mix     half the stream, a quarter, the rest short
    short    documents of 512 to 1,536 tokens, packed

First all cores must agree in float64, and every loss in float32. A ratio is theirs over ours in one round; the median
and range over rounds are printed. "wall" is the slowest rank's time; "cpu" is what all ranks spent
together, which another job on the machine does not lengthen. 4 ranks share 2 cores, so their wall time shows total
work and hardly how level it is. On one machine a message costs a copy: "bytes" says what it would be on a network.
Prints two tables and writes `outputs/benchmarks/ring_side_by_side.json`.
"""

import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from plain_ring import PlainRing, Rival, plan
from torch import Tensor
from traffic import streams

from data.batch import IGNORE
from model.attention.core import AttentionCore, choose_core
from model.attention.layer import Attention
from model.config import ModelConfig
from model.documents import Documents
from model.initialization import initialize
from model.layer_pattern import expand_pattern
from model.reach import Reach
from model.transformer import Transformer
from parallel.mesh import Mesh, start
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.ring import RingCore
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.window import WindowCore
from parallel.topology import Topology
from ranks import run_on_ranks
from tests.layer_kinds import kind_of

OUTPUT = Path("outputs/benchmarks/ring_side_by_side.json")
CPU = torch.device("cpu")
SIZES = (2, 4)
STREAMS = ("one", "mix", "short")
RIVALS: tuple[Rival, ...] = ("masked", "tiles")
CORES = ("ours", *RIVALS)
WINDOW = 512
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "vocab_size": 1024,
    "window": WINDOW,
}
MODELS = {
    "hybrid": ModelConfig(num_layers=4, **SHAPE),
    "full": ModelConfig(num_layers=2, layer_pattern=["full_nope"], **SHAPE),
}


class Extent(NamedTuple):
    """What is measured at one length: rounds, and which streams and cores, so that the whole takes minutes."""

    rounds: int
    streams: tuple[str, ...] = STREAMS
    cores: tuple[str, ...] = CORES


LENGTHS = {
    8192: Extent(2),
    16384: Extent(1, cores=("ours", "masked")),
    32768: Extent(1, ("one", "mix"), ("ours", "masked")),
}
WARM_UP_TOKENS, WARM_UP = 2048, Extent(1)
# The table of attention alone.
ALONE_TOKENS, ALONE_ROUNDS = 16384, 2
HOSTILE = ((1152,), (37, 900, 15, 200), (1, 1, 574, 1, 320, 255), (72,) * 16)
HOSTILE_REACHES = (Reach(), Reach(5), Reach(70), Reach(400))


@dataclass(frozen=True)
class Held:
    """What one rank holds of a stream under one core: tokens and the core ready for it."""

    layout: ShardedLayout
    rows_T: Tensor
    full: AttentionCore
    windowed: AttentionCore
    meter: TrafficMeter


def document_lengths(name: str, num_tokens: int) -> tuple[int, ...]:
    """The stream called `name`."""
    if name != "mix":
        return next(streams(name, num_tokens))
    quarter = num_tokens // 4
    return (2 * quarter, quarter, *next(streams("short", quarter)))


def hold(core: str, lengths: tuple[int, ...], layers: Mapping[Reach, int], mesh: Mesh) -> Held:
    """Deal and plan, which in training is done ahead in another thread."""
    rank, size = mesh.sequence.rank, mesh.sequence.size
    dealing = deal("balanced" if core == "ours" else "zigzag", lengths, size, layers)
    layout = ShardedLayout.from_share(
        build_share(
            dealing, Documents.of(lengths), rank, {kind_of(reach): reach for reach in layers}
        )
    )
    meter = TrafficMeter()
    full: AttentionCore = RingCore("full", mesh.sequence, meter)
    windowed: AttentionCore = WindowCore("window", mesh.window, meter)
    if core in RIVALS:
        full = windowed = rival(core, mesh, dealing, lengths, tuple(layers), meter)
    return Held(layout, positions(dealing, rank), full, windowed, meter)


def rival(
    name: Rival,
    mesh: Mesh,
    dealing: Dealing,
    lengths: tuple[int, ...],
    reaches: tuple[Reach, ...],
    meter: TrafficMeter,
) -> PlainRing:
    """A plain ring that is ready for this stream."""
    ring = PlainRing(mesh.sequence, meter)
    rank = mesh.sequence.rank
    ring.plans = {reach: plan(dealing, lengths, rank, reach.window, name) for reach in reaches}
    return ring


def positions(dealing: Dealing, rank: int) -> Tensor:
    """Stream positions of a rank's tokens."""
    return torch.cat([torch.arange(held.start, held.stop) for held in dealing.ranges(rank)])


def check_agreement(mesh: Mesh) -> float:
    """The largest difference between our cores and the rivals, outputs and gradients, in float64."""
    worst = 0.0
    size, rank = mesh.sequence.size, mesh.sequence.rank
    for lengths, reach in product(HOSTILE, HOSTILE_REACHES):
        dealing = deal("zigzag", lengths, size, {reach: 1})
        layout = ShardedLayout.from_share(
            build_share(dealing, Documents.of(lengths), rank, {kind_of(reach): reach})
        )
        generator = torch.Generator().manual_seed(0)
        tensors = [
            torch.randn(sum(lengths), n, 8, generator=generator, dtype=torch.float64)
            for n in (4, 2, 2, 4)
        ]
        local = [x[positions(dealing, rank)] for x in tensors]
        cores: list[AttentionCore] = [
            RingCore("full", mesh.sequence)
            if reach.window is None
            else WindowCore("window", mesh.window)
        ]
        for name in RIVALS:
            cores.append(rival(name, mesh, dealing, lengths, (reach,), TrafficMeter()))
        expected, *found = (attend(core, local, layout, reach) for core in cores)
        for theirs in found:
            for a, b in zip(expected, theirs, strict=True):
                worst = max(worst, (a - b).abs().max().item())
    assert worst < 1e-12, worst
    return worst


def attend(
    core: AttentionCore, tensors: list[Tensor], layout: ShardedLayout, reach: Reach
) -> list[Tensor]:
    """Output and gradients."""
    *inputs, upstream = tensors
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = core(*leaves, layout, reach)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def timed(step: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds of the slowest rank and CPU seconds of all, started together. Collective."""
    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    both = torch.tensor([wall, cpu], dtype=torch.float64)
    rows = [torch.empty_like(both) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, both)
    table = torch.stack(rows)
    return table[:, 0].max().item(), table[:, 1].sum().item()


def alternate(
    steps: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Times of all cores, one after the other, there and back, round after round. Collective."""
    found: dict[str, list[tuple[float, float]]] = {core: [] for core in steps}
    for number in range(rounds):
        for core in sorted(steps, key=CORES.index, reverse=number % 2 == 1):
            found[core].append(timed(steps[core]))
    return found


def train_step(
    model: Transformer, held: Held, tokens_T: Tensor, targets_T: Tensor, losses: list[Tensor]
) -> None:
    """Forward and backward through this core."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.core = held.full if module.spec.window is None else held.windowed
    hidden_TD = model(tokens_T[held.rows_T], held.layout, 1e4)
    sums = model.loss(hidden_TD, targets_T[held.rows_T])
    sums.total.backward()
    model.zero_grad()
    losses.append(sums.loss_sum)


def measure_model(
    name: str, stream: str, num_tokens: int, extent: Extent, mesh: Mesh
) -> dict[str, Any]:
    """One line of the first table."""
    config, lengths = MODELS[name], document_lengths(stream, num_tokens)
    layers_of_reach = Counter(spec.reach for spec in expand_pattern(config))
    model = Transformer(config, choose_core("auto", CPU, torch.float32))
    initialize(model, config, seed=0)
    generator = torch.Generator().manual_seed(0)
    tokens_T = torch.randint(0, config.vocab_size, (num_tokens,), generator=generator)
    targets_T = tokens_T.roll(-1)
    targets_T[torch.tensor(lengths).cumsum(0) - 1] = IGNORE
    held = {core: hold(core, lengths, layers_of_reach, mesh) for core in extent.cores}
    losses: dict[str, list[Tensor]] = {core: [] for core in held}
    steps = {
        core: partial(train_step, model, one, tokens_T, targets_T, losses[core])
        for core, one in held.items()
    }
    found = alternate(steps, extent.rounds)
    totals = torch.tensor(
        [[losses[core][0].item(), held[core].meter.total / extent.rounds] for core in held],
        dtype=torch.float64,
    )
    ours, *others = mesh.sum_over_world(totals).tolist()
    # The same weights and tokens, in float32.
    assert all(abs(loss / ours[0] - 1) < 1e-5 for loss, _ in others), (ours, others)
    received = dict(zip(held, (ours[1], *(total for _, total in others)), strict=True))
    case = {"model": name, "stream": stream, "tokens": num_tokens, "ranks": mesh.sequence.size}
    return case | {"seconds": found, "bytes": received}


def measure_layer(reach: Reach, stream: str, mesh: Mesh) -> dict[str, Any]:
    """Attention of one layer, without the rest of the model."""
    lengths = document_lengths(stream, ALONE_TOKENS)
    held = {core: hold(core, lengths, {reach: 1}, mesh) for core in CORES}
    shape = (ALONE_TOKENS // mesh.sequence.size, 4, 32)
    tensors = [torch.randn(shape[0], n, shape[2]) for n in (4, 2, 2, 4)]
    steps = {
        core: partial(
            attend, one.full if reach.window is None else one.windowed, tensors, one.layout, reach
        )
        for core, one in held.items()
    }
    found = alternate(steps, ALONE_ROUNDS)
    kind = "full" if reach.window is None else "window"
    return {"layer": kind, "stream": stream, "ranks": mesh.sequence.size, "seconds": found}


def run_world(size: int) -> dict[str, Any]:
    """Everything on so many ranks."""

    def work(rank: int, world_size: int) -> dict[str, Any]:
        mesh = start(CPU, 600, Topology(sequence=size))
        difference = check_agreement(mesh)
        for name in MODELS:
            measure_model(name, "mix", WARM_UP_TOKENS, WARM_UP, mesh)
        layers, models = [], []
        for reach, stream in product((Reach(WINDOW), Reach()), STREAMS):
            layers.append(measure_layer(reach, stream, mesh))
        for name, stream, (num_tokens, extent) in product(MODELS, STREAMS, LENGTHS.items()):
            if stream in extent.streams:
                models.append(measure_model(name, stream, num_tokens, extent, mesh))
        return {"difference": difference, "layers": layers, "models": models}

    return run_on_ranks(work, size, timeout=1800)[0]


def ratios(case: dict[str, Any], core: str, clock: int) -> list[float]:
    """Theirs over ours in every round; clock 0: wall, 1: CPU."""
    both = zip(case["seconds"][core], case["seconds"]["ours"], strict=True)
    return [theirs[clock] / ours[clock] for theirs, ours in both]


def spread(values: list[float]) -> str:
    """Median and range; of a single round no range."""
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f}-{max(values):.2f})"


def write_models(cases: list[dict[str, Any]]) -> None:
    """Whole training steps."""
    write = sys.stdout.write
    write("\nwhole steps; a plain ring over ours\n")
    write(f"{'':35}{'masked':>19}{'':12}{'tiles':>12}\n")
    write(f"{'model':8}{'stream':7}{'tokens':>6}{'ranks':>6}{'ours s':>8}")
    write(f"{'wall':>19}{'cpu':>6}" * 2 + f"{'bytes':>8}\n")
    for case in cases:
        ours = statistics.median(wall for wall, _ in case["seconds"]["ours"])
        write(f"{case['model']:8}{case['stream']:7}{case['tokens'] >> 10:>5}k{case['ranks']:>6}")
        write(f"{ours:8.2f}")
        for core in RIVALS:
            if core not in case["seconds"]:
                write(f"{'-':>19}{'-':>6}")
                continue
            cpu = statistics.median(ratios(case, core, 1))
            write(f"{spread(ratios(case, core, 0)):>19}{cpu:6.2f}")
        received = case["bytes"]
        few = received["ours"] == 0
        write("    none\n" if few else f"{received['masked'] / received['ours']:8.1f}\n")


def write_layers(cases: list[dict[str, Any]]) -> None:
    """Attention alone."""
    write = sys.stdout.write
    write(
        f"\nattention of one layer alone, {ALONE_TOKENS:,} tokens; cpu time, a plain ring over ours\n"
    )
    write(f"{'layer':8}{'stream':7}{'ranks':>6}{'masked':>20}{'tiles':>20}\n")
    for case in cases:
        write(f"{case['layer']:8}{case['stream']:7}{case['ranks']:>6}")
        write("".join(f"{spread(ratios(case, core, 1)):>20}" for core in RIVALS) + "\n")


def main() -> None:
    """Measure on 2 and on 4 ranks, print the tables, write the file."""
    torch.set_num_threads(1)
    write = sys.stdout.write
    worlds = [run_world(size) for size in SIZES]
    heads = f"heads {SHAPE['num_heads']}/{SHAPE['num_kv_heads']} of {SHAPE['head_dim']}"
    write(f"width {SHAPE['hidden_size']}, {heads}, window {WINDOW}, float32, 1 thread a rank\n")
    worst = max(world["difference"] for world in worlds)
    write(f"largest difference of outputs and gradients in float64: {worst:.0e}\n")
    models = [case for world in worlds for case in world["models"]]
    layers = [case for world in worlds for case in world["layers"]]
    write_models(models)
    write_layers(layers)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    record = {"torch": torch.__version__, "shape": SHAPE, "models": models, "layers": layers}
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
