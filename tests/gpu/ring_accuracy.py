"""Ring attention on the real kernels: every rank's work in one process, against the whole stream.

    ring     2, 4 and 8 virtual ranks (`virtual_ranks`), ring steps, exchanges and windows: output, dq, dk, dv
             within the bound of `attention_accuracy`, and the same bits twice when torch is told to
    waiting  a step of one rank alone and of one rank of a ring: the host never waits for the device

Shape letters: T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product

import torch
from attention_accuracy import (
    FLOOR,
    TENSORS,
    largest_errors,
    layer_of,
    plain_attention,
    run_core,
)
from machine import Machine
from outcome import Outcome
from torch import Tensor
from virtual_ranks import NoiseWire, attend_in_turns, axis_of, core_of, layout_of

from model.attention.dense import DenseCore
from model.documents import Documents
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal, deal_contiguous
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.route import Transport

SIZES = (2, 4, 8)
LAYOUTS = ("contiguous", "zigzag", "balanced")
HEADS, KEY_HEADS, HEAD_DIM = 8, 2, 128
# Tokens of a chunk of the finest zigzag; a stream is 16 of them.
UNIT, REHEARSAL_UNIT = 144, 12
# Lengths in sixteenths of a unit: one document; documents over several ranks between tiny ones.
STREAMS = {"one document": (256,), "mixed": (1, 100, 1, 1, 90, 3, 60)}
# Windows and attention chunks in units: windows smaller than any part of the stream that a rank holds, over several
# of them, larger than a shard of 2 ranks; attention chunks whose borders are no borders of ranks.
LAYERS: tuple[tuple[float | None, float | None, Transport], ...] = (
    (None, None, "ring"),
    (None, None, "exchange"),
    (0.3, None, "auto"),
    (2.5, None, "auto"),
    (9.0, None, "auto"),
    (None, 2.7, "ring"),
    (None, 2.7, "exchange"),
)


@dataclass(frozen=True)
class Case:
    """One layer over one stream on a ring."""

    size: int
    dealt: str
    stream: str
    lengths: tuple[int, ...]
    window: int | None
    chunk: int | None
    transport: Transport

    @property
    def reach(self) -> Reach:
        """How far a token sees."""
        return Reach(self.window, self.chunk)

    def __str__(self) -> str:
        layer = layer_of(self.reach)
        layer += "" if self.window else f" by {self.transport}"
        return f"{self.size} ranks, {self.dealt}, {self.stream}, {layer}"

    def dealing(self) -> Dealing:
        """Who holds what."""
        return deal(self.dealt, self.lengths, self.size, {self.reach: 1})


def cases(machine: Machine) -> list[Case]:
    """Every size, stream and layer on every way of dealing."""
    unit = REHEARSAL_UNIT if machine.rehearsal else UNIT
    found = []
    for size, dealt, stream, (*limits, transport) in product(SIZES, LAYOUTS, STREAMS, LAYERS):
        window, chunk = (None if width is None else round(width * unit) for width in limits)
        lengths = lengths_of(stream, unit)
        found.append(Case(size, dealt, stream, lengths, window, chunk, transport))
    # Every fifth meets every size, stream, layer and dealing.
    return found[::5] if machine.rehearsal else found


def lengths_of(stream: str, unit: int) -> tuple[int, ...]:
    """16 units of tokens in all; documents of 1/16 unit or less have one token."""
    lengths = [part * unit // 16 if part > 1 else 1 for part in STREAMS[stream]]
    return (*lengths[:-1], 16 * unit - sum(lengths[:-1]))


def inputs(tokens: int, machine: Machine, *, widths: tuple[int, int, int]) -> list[Tensor]:
    """q, k, v and the gradient of the output: bfloat16, the same on every device."""
    generator = torch.Generator().manual_seed(tokens)
    heads, key_heads, head_dim = widths
    return [
        torch.randn(tokens, n, head_dim, generator=generator).to(torch.bfloat16).to(machine.device)
        for n in (heads, key_heads, key_heads, heads)
    ]


def widths_of(machine: Machine) -> tuple[int, int, int]:
    """Query heads, key/value heads, head dimension."""
    return (4, 2, 16) if machine.rehearsal else (HEADS, KEY_HEADS, HEAD_DIM)


@dataclass(frozen=True)
class Truth:
    """A layer over the whole stream: in float64, and what bfloat16 loses there."""

    exact: list[Tensor]
    bounds: dict[str, float]
    # Errors of one call over the whole stream.
    one_call: dict[str, float]


def truth_of(case: Case, streams: list[Tensor]) -> Truth:
    """Does not depend on the ring."""
    layout = PackedLayout.from_lengths(case.lengths, streams[0].device)
    exact = run_core(DenseCore(), [x.double() for x in streams], layout, case.reach)
    plain, dense = (
        largest_errors(run_core(core, streams, layout, case.reach), exact)
        for core in (plain_attention, DenseCore())
    )
    alone = deal_contiguous(layout.num_tokens, 1)
    found = run_core(
        core_of(axis_of(0, 1), case.reach),
        streams,
        layout_of(alone, case.lengths, 0, case.reach, streams[0].device),
        case.reach,
    )
    bounds = {name: 2 * max(plain[name], dense[name]) + FLOOR for name in TENSORS}
    return Truth(exact, bounds, largest_errors(found, exact))


def check_ring(machine: Machine) -> Outcome:
    """All cases; then the same bits twice."""
    outcome = Outcome(
        "Ring attention in bfloat16 on virtual ranks against dense float64: largest errors",
        ("ranks", "layer", *TENSORS, "worst share of the bound", "one call's share"),
    )
    truths: dict[tuple[str, Reach], Truth] = {}
    tokens = 16 * (REHEARSAL_UNIT if machine.rehearsal else UNIT)
    streams = inputs(tokens, machine, widths=widths_of(machine))
    wanted = cases(machine)
    for done, case in enumerate(wanted):
        if machine.seconds_left <= 0:
            outcome.notes.append(f"No time left after {done} of {len(wanted)} cases.")
            break
        key = (case.stream, case.reach)
        try:
            if key not in truths:
                truths[key] = truth_of(case, streams)
            _judge(outcome, case, truths[key], streams)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            outcome.failures.append(f"{case}: {type(error).__name__}: {_first_line(error)}")
    _tabulate(outcome)
    _check_same_bits(outcome, machine)
    outcome.notes.append(
        f"{tokens:,} tokens, heads {HEADS}/{KEY_HEADS} of {HEAD_DIM}; streams: {STREAMS}, in "
        f"sixteenths of {UNIT} tokens; dealt {', '.join(LAYOUTS)}. Bound: 2 x the larger error of the "
        f"formula in bfloat16 and of the dense core, + {FLOOR:g}. One call: the same layer, one rank."
    )
    return outcome


def _judge(outcome: Outcome, case: Case, truth: Truth, streams: list[Tensor]) -> None:
    found = attend_in_turns(case.dealing(), case.lengths, case.reach, case.transport, streams)
    errors = largest_errors(found, truth.exact)
    for name in TENSORS:
        line = f"{case}: {name}: error {errors[name]:.2e}, bound {truth.bounds[name]:.2e}"
        outcome.expect(errors[name] <= truth.bounds[name], line)
    outcome.numbers.append(
        {
            **asdict(case),
            "errors": errors,
            "bounds": truth.bounds,
            "one_call": truth.one_call,
            "share": max(errors[name] / truth.bounds[name] for name in TENSORS),
            "one_call_share": max(truth.one_call[name] / truth.bounds[name] for name in TENSORS),
        }
    )


def _tabulate(outcome: Outcome) -> None:
    for size, windowed in product(SIZES, (False, True)):
        rows = [
            row
            for row in outcome.numbers
            if row["size"] == size and (row["window"] is not None) == windowed
        ]
        if rows:
            errors = [max(row["errors"][name] for row in rows) for name in TENSORS]
            shares = [max(row[name] for row in rows) for name in ("share", "one_call_share")]
            outcome.rows.append(
                (
                    str(size),
                    "windowed" if windowed else "full",
                    *(f"{error:.1e}" for error in errors),
                    *(f"{share:.2f}" for share in shares),
                )
            )


def _check_same_bits(outcome: Outcome, machine: Machine) -> None:
    """Flash adds up dq in no fixed order unless torch is told to."""
    unit = REHEARSAL_UNIT if machine.rehearsal else UNIT
    streams = inputs(16 * unit, machine, widths=widths_of(machine))
    window = round(2.5 * unit)
    for reach, transport in ((Reach(), "ring"), (Reach(), "exchange"), (Reach(window), "auto")):
        lengths = lengths_of("mixed", unit)
        case = Case(4, "zigzag", "mixed", lengths, reach.window, reach.chunk, transport)
        try:
            with deterministic():
                first, second = (
                    attend_in_turns(
                        case.dealing(), case.lengths, case.reach, case.transport, streams
                    )
                    for _ in range(2)
                )
        except RuntimeError as error:
            outcome.failures.append(f"{case}, deterministic: {_first_line(error)}")
            continue
        differ = [n for n, a, b in zip(TENSORS, first, second, strict=True) if not a.equal(b)]
        outcome.expect(not differ, f"{case}: {differ} differ between two deterministic runs")


@contextmanager
def deterministic() -> Iterator[None]:
    """Inside, torch adds up in a fixed order. New memory is not filled, which some kernels' states refuse."""
    before, torch.utils.deterministic.fill_uninitialized_memory = (
        torch.utils.deterministic.fill_uninitialized_memory,
        False,
    )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before


@contextmanager
def no_waiting(machine: Machine) -> Iterator[None]:
    """Inside, an operation that makes the host wait for the device raises (on CUDA)."""
    if not machine.is_cuda:
        yield
        return
    torch.cuda.synchronize(machine.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_waiting(machine: Machine) -> Outcome:
    """Steps of one rank, once to warm up and once watched."""
    outcome = Outcome(
        "Does the host wait for the device in a layer's forward and backward?", ("step", "waits")
    )
    unit = REHEARSAL_UNIT if machine.rehearsal else UNIT
    for name, step in _steps(unit, machine):
        try:
            step()
            with no_waiting(machine):
                step()
            waits = "no" if machine.is_cuda else "not watched on a CPU"
        except RuntimeError as error:
            waits = _first_line(error)
            outcome.failures.append(f"{name}: {waits}")
        outcome.rows.append((name, waits))
        outcome.numbers.append({"step": name, "waits": waits})
    return outcome


def _steps(unit: int, machine: Machine) -> Iterator[tuple[str, Callable[[], object]]]:
    """One rank alone, then rank 2 of 4 on a wire that brings noise."""
    lengths, window = lengths_of("mixed", unit), Reach(round(2.5 * unit))
    for size in (1, 4):
        dealing = deal("zigzag", lengths, size, {Reach(): 1})
        rank = size // 2
        streams = inputs(dealing.local_tokens, machine, widths=widths_of(machine))
        share = build_share(
            dealing, Documents.of(lengths), rank, {"full": Reach(), "window": window}, "auto"
        )
        name = f"rank {rank} of {size}: the layout goes to the device"
        yield name, lambda share=share: ShardedLayout.from_share(share, machine.device)
        for reach, transport in ((Reach(), "ring"), (Reach(), "exchange"), (window, "auto")):
            layout = layout_of(dealing, lengths, rank, reach, machine.device, transport)
            core = core_of(axis_of(rank, size), reach, NoiseWire)

            def step(core=core, streams=streams, layout=layout, reach=reach):
                return run_core(core, streams, layout, reach)

            layer = layer_of(reach) + ("" if reach.window else f" by {transport}")
            yield f"rank {rank} of {size}: {layer}", step


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
