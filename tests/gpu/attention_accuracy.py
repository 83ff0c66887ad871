"""Every attention backend in bfloat16 against the dense oracle in float64, over hostile layouts.

The 2x rule: a kernel may lose at most twice what the plain formula loses in the same dtype, output
and all three gradients, largest element. Two yardsticks stand beside it, the larger one counts:

    plain     every step of the formula in bfloat16: what kernels are measured against in the field
    dense     `DenseCore` on bfloat16 input: it computes in float32, so only the result is rounded

All start from the same bfloat16 numbers, so the rounding of the inputs is nobody's error.

Shape letters: T tokens as queries, S tokens as keys, H query heads, G key/value heads,
K head dimension.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from machine import Machine
from outcome import Outcome
from torch import Tensor

from model.attention.core import IMPLEMENTATIONS, AttentionCore, build_core
from model.attention.dense import DenseCore, visible_TS
from model.attention.kernels import obstacle
from model.packed_layout import PackedLayout
from model.reach import Reach

TENSORS = ("o", "dq", "dk", "dv")
REACHES = (Reach(1), Reach(7), Reach(128), Reach(chunk=128), Reach())
HEADS = ((4, 1), (8, 2), (4, 4))
HEAD_DIMS = (64, 128)
# Sums of 128 float32 products of bfloat16 numbers, in another order; a bfloat16 error is 50 times it.
FLOOR = 1e-4


@dataclass(frozen=True)
class Case:
    """One problem: documents of a packed stream, heads and a reach."""

    layout: str
    lengths: tuple[int, ...]
    heads: int
    key_heads: int
    head_dim: int
    window: int | None
    chunk: int | None

    @property
    def reach(self) -> Reach:
        """How far a token sees."""
        return Reach(self.window, self.chunk)

    def __str__(self) -> str:
        shape = f"heads {self.heads}/{self.key_heads} of {self.head_dim}"
        return f"{self.layout} {self.lengths[:6]}, {shape}, {layer_of(self.reach)}"


def layer_of(reach: Reach) -> str:
    """A name for layers of this reach."""
    if reach.chunk is not None:
        return f"chunk {reach.chunk}"
    return "full" if reach.window is None else f"window {reach.window}"


def plain_attention(
    q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, layout: PackedLayout, reach: Reach
) -> Tensor:
    """The formula with every step in the dtype of its input: the yardstick of the 2x rule."""
    repeats = q_THK.shape[1] // k_TGK.shape[1]
    k_SHK, v_SHK = (x.repeat_interleave(repeats, dim=1) for x in (k_TGK, v_TGK))
    scores_HTS = torch.einsum("thk,shk->hts", q_THK * q_THK.shape[-1] ** -0.5, k_SHK)
    rows_HTS = scores_HTS.masked_fill(~visible_TS(layout, reach), float("-inf")).softmax(dim=-1)
    o_THK: Tensor = torch.einsum("hts,shk->thk", rows_HTS, v_SHK)
    return o_THK


def able_backends(machine: Machine) -> tuple[dict[str, AttentionCore], list[str]]:
    """The cores that serve bfloat16 here, by name, and a line for each that does not."""
    able: dict[str, AttentionCore] = {}
    absent = []
    for implementation in IMPLEMENTATIONS:
        reason = obstacle(implementation, machine.device.type, torch.bfloat16)
        if reason:
            absent.append(f"{implementation.backend.name} was left out: {reason}.")
        else:
            able[implementation.backend.name] = build_core(implementation)
    return able, absent


def cases(machine: Machine) -> Iterator[Case]:
    """Every combination; for a rehearsal the smallest heads and short documents."""
    heads = HEADS[:1] if machine.rehearsal else HEADS
    head_dims = HEAD_DIMS[:1] if machine.rehearsal else HEAD_DIMS
    long = 150 if machine.rehearsal else 900
    for reach in REACHES:
        edge = reach.limit or 256
        layouts = {
            # Of one token; of the window or chunk; one more; long; one token between; padding at the end.
            "mixed": (1, edge, edge + 1, long, 1, 37),
            "one document": (long + 123,),
            "single tokens": (1,) * 17,
        }
        for name, lengths in layouts.items():
            for query_heads, key_heads in heads:
                for head_dim in head_dims:
                    widths = (query_heads, key_heads, head_dim)
                    yield Case(name, lengths, *widths, reach.window, reach.chunk)


def inputs(case: Case, machine: Machine) -> list[Tensor]:
    """q, k, v and the gradient of the output: bfloat16, the same on every device."""
    generator = torch.Generator().manual_seed(len(str(case)) + sum(case.lengths))
    tokens = sum(case.lengths)
    return [
        torch.randn(tokens, heads, case.head_dim, generator=generator)
        .to(torch.bfloat16)
        .to(machine.device)
        for heads in (case.heads, case.key_heads, case.key_heads, case.heads)
    ]


def run_core(
    core: AttentionCore, streams: list[Tensor], layout: PackedLayout, reach: Reach
) -> list[Tensor]:
    """Output and the gradients of q, k and v."""
    q_THK, k_TGK, v_TGK = (x.detach().requires_grad_() for x in streams[:3])
    o_THK = core(q_THK, k_TGK, v_TGK, layout, reach)
    return [o_THK.detach(), *torch.autograd.grad(o_THK, (q_THK, k_TGK, v_TGK), streams[3])]


def largest_errors(found: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    """Largest absolute difference of each tensor."""
    pairs = zip(TENSORS, found, exact, strict=True)
    return {name: (mine.double() - truth).abs().max().item() for name, mine, truth in pairs}


def check_attention(machine: Machine) -> Outcome:
    """All backends over all cases."""
    able, absent = able_backends(machine)
    outcome = Outcome(
        "Attention backends in bfloat16 against dense float64: largest errors",
        ("backend", "layer", "o", "dq", "dk", "dv", "worst share of the bound"),
        notes=absent,
    )
    for case in cases(machine):
        for name, errors, bounds in _compare(case, able, outcome, machine):
            outcome.numbers.append(
                {"backend": name, **asdict(case), "errors": errors, "bounds": bounds}
            )
            for tensor in TENSORS:
                line = f"{name}: {tensor} of {case}: error {errors[tensor]:.2e}, bound "
                outcome.expect(errors[tensor] <= bounds[tensor], line + f"{bounds[tensor]:.2e}")
    _tabulate(outcome, list(able))
    outcome.notes.append(
        f"Bound: 2 x the larger error of the formula in bfloat16 and of the dense core, + {FLOOR:g}; "
        "layouts: a document of 1 token, of the window or chunk, of one more, a long one, padding; heads 4/1, "
        "8/2 and 4/4 of 64 and 128."
    )
    return outcome


def _compare(
    case: Case, able: dict[str, AttentionCore], outcome: Outcome, machine: Machine
) -> Iterator[tuple[str, dict[str, float], dict[str, float]]]:
    layout = PackedLayout.from_lengths(case.lengths, machine.device)
    streams = inputs(case, machine)
    exact = run_core(DenseCore(), [x.double() for x in streams], layout, case.reach)
    plain, dense = (
        largest_errors(run_core(core, streams, layout, case.reach), exact)
        for core in (plain_attention, DenseCore())
    )
    bounds = {name: 2 * max(plain[name], dense[name]) + FLOOR for name in TENSORS}
    for name, core in able.items():
        try:
            found = run_core(core, streams, layout, case.reach)
        except (RuntimeError, TypeError, ValueError) as error:
            outcome.failures.append(f"{name}: {case}: {str(error).splitlines()[0]}")
            continue
        yield name, largest_errors(found, exact), bounds


def _tabulate(outcome: Outcome, names: list[str]) -> None:
    worst: dict[tuple[str, Reach], dict[str, float]] = defaultdict(dict)
    for row in outcome.numbers:
        cell = worst[row["backend"], Reach(row["window"], row["chunk"])]
        for tensor in TENSORS:
            error, share = row["errors"][tensor], row["errors"][tensor] / row["bounds"][tensor]
            cell[tensor] = max(cell.get(tensor, 0.0), error)
            cell["share"] = max(cell.get("share", 0.0), share)
    for name in names:
        for reach in REACHES:
            cell = worst.get((name, reach), {})
            if cell:
                errors = [f"{cell[tensor]:.1e}" for tensor in TENSORS]
                outcome.rows.append((name, layer_of(reach), *errors, f"{cell['share']:.2f}"))
