"""Time of every rank's attention in a ring, forward and backward, over its ideal share.

Each rank's work runs alone on the device, on a wire that brings noise at once: kernels, joining and sums of
gradients, but no transfers. The ideal share is the time of the whole stream in one call, through the same
core, divided by the ranks. What lies above it is uneven work, smaller kernels, and joining:

    over ideal = busiest rank's time / (whole time / ranks)          1.00 is perfect
    work       = busiest rank's visible pairs / their mean           what the dealing can help

`3:1` is the hybrid model, three windowed layers to a full one; streams are dealt for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from attention_throughput import HEAD_DIM, HEADS, KEY_HEADS, WINDOW, packed
from machine import Machine
from outcome import Outcome
from virtual_ranks import NoiseWire, axis_of, core_of, layout_of

from model.reach import Reach
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal
from rank_work import attention_work

LAYOUTS = ("zigzag", "balanced")
# Tokens of the stream and lengths of the ring.
TIMED = ((32_768, (2, 4, 8)), (131_072, (8,)))
SECONDS_PER_RANK = 0.05
# Windowed layers to a full one.
MIX = 3


@dataclass(frozen=True)
class Stream:
    """Documents, and the window of windowed layers. scale: how much shorter in a rehearsal."""

    documents: str
    lengths: tuple[int, ...]
    window: int

    @property
    def tokens(self) -> int:
        """Of the whole stream."""
        return sum(self.lengths)

    @property
    def layers(self) -> dict[Reach, int]:
        """Layers of each reach, as dealing weighs them."""
        return {Reach(): 1, Reach(self.window): MIX}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each rank, and of the whole stream on one."""

    whole: float
    ranks: tuple[float, ...]

    @property
    def ideal(self) -> float:
        """Of each rank, if nothing were lost."""
        return self.whole / len(self.ranks)

    @property
    def over_ideal(self) -> float:
        """Of the busiest rank."""
        return max(self.ranks) / self.ideal


def streams(machine: Machine) -> Iterator[tuple[Stream, Sequence[int]]]:
    """Each length as one document and packed, with its rings."""
    scale = 64 if machine.rehearsal else 1
    for tokens, sizes in ((8_192, (8,)),) if machine.rehearsal else TIMED:
        for name, lengths in (
            ("one", (tokens // scale,)),
            ("packed", packed(tokens // scale, scale)),
        ):
            yield Stream(name, lengths, WINDOW // scale), sizes


def check_ring_throughput(machine: Machine) -> Outcome:
    """Measure; nothing here fails but a kernel that refuses."""
    outcome = Outcome(
        "A ring's attention layer, forward and backward, bfloat16: each rank's time without transfers",
        (
            "tokens",
            "documents",
            "layer",
            "ranks",
            "dealt",
            "ideal ms",
            "mean ms",
            "busiest ms",
            "over ideal",
            "work",
        ),
    )
    for stream, sizes in streams(machine):
        if machine.seconds_left <= 0:
            where = f"{stream.tokens:,} tokens, {stream.documents}"
            outcome.notes.append(f"{where}: no time left.")
            continue
        try:
            _measure_stream(outcome, stream, sizes, machine)
        except RuntimeError as error:  # out of memory is one too
            where = f"{stream.tokens:,} tokens, {stream.documents}"
            outcome.failures.append(f"{where}: {(str(error).splitlines() or [''])[0]}")
        machine.forget()
        machine.record(outcome)
    outcome.notes.append(
        f"Heads {HEADS}/{KEY_HEADS} of {HEAD_DIM}, window {WINDOW:,}; medians; ideal: one call over the "
        f"whole stream / ranks; {MIX}:1 adds {MIX} windowed layers and a full one, for which streams are "
        "dealt; work: visible pairs of the busiest rank over the mean."
    )
    return outcome


def _measure_stream(
    outcome: Outcome, stream: Stream, sizes: Sequence[int], machine: Machine
) -> None:
    alone = deal("contiguous", stream.lengths, 1, stream.layers)
    whole = {reach: _milliseconds(stream, alone, 0, reach, machine) for reach in stream.layers}
    for size in sizes:
        for dealt in LAYOUTS:
            dealing = deal(dealt, stream.lengths, size, stream.layers)
            found = {
                reach: Timing(
                    whole[reach],
                    tuple(_milliseconds(stream, dealing, r, reach, machine) for r in range(size)),
                )
                for reach in whole
            }
            _add_rows(outcome, stream, dealing, dealt, found)


def _milliseconds(
    stream: Stream, dealing: Dealing, rank: int, reach: Reach, machine: Machine
) -> float:
    widths = (4, 1, 32) if machine.rehearsal else (HEADS, KEY_HEADS, HEAD_DIM)
    heads, key_heads, head_dim = widths
    layout = layout_of(dealing, stream.lengths, rank, reach, machine.device)
    core = core_of(axis_of(rank, dealing.size), reach, NoiseWire)
    q, k, v, upstream = (
        torch.randn(dealing.local_tokens, n, head_dim, device=machine.device, dtype=torch.bfloat16)
        for n in (heads, key_heads, key_heads, heads)
    )
    trained = [x.requires_grad_() for x in (q, k, v)]

    def step() -> None:
        torch.autograd.grad(core(q, k, v, layout, reach), trained, upstream)

    seconds = 0.001 if machine.rehearsal else SECONDS_PER_RANK
    return machine.median_milliseconds(step, seconds=seconds)


def _add_rows(
    outcome: Outcome,
    stream: Stream,
    dealing: Dealing,
    dealt: str,
    found: dict[Reach, Timing],
) -> None:
    full, windowed = found[Reach()], found[Reach(stream.window)]
    both = zip(full.ranks, windowed.ranks, strict=True)
    mixed = replace(
        full,
        whole=full.whole + MIX * windowed.whole,
        ranks=tuple(a + MIX * b for a, b in both),
    )
    for layer, timing, layers in (
        ("full", full, {Reach(): 1}),
        (f"{stream.window:,}", windowed, {Reach(stream.window): 1}),
        (f"{MIX}:1", mixed, stream.layers),
    ):
        work = attention_work(dealing, stream.lengths, layers)
        uneven = max(work) * len(work) / sum(work)
        mean = sum(timing.ranks) / len(timing.ranks)
        cells = (f"{x:.2f}" for x in (timing.ideal, mean, max(timing.ranks), timing.over_ideal))
        outcome.rows.append(
            (
                f"{stream.tokens:,}",
                stream.documents,
                layer,
                str(dealing.size),
                f"{dealt}, {len(dealing.chunks[0])} chunks",
                *cells,
                f"{uneven:.2f}",
            )
        )
        outcome.numbers.append(
            {
                "tokens": stream.tokens,
                "documents": stream.documents,
                "layer": layer,
                "ranks": dealing.size,
                "dealt": dealt,
                "chunks": len(dealing.chunks[0]),
                "timing": asdict(timing),
                "over_ideal": timing.over_ideal,
                "work": uneven,
            }
        )
