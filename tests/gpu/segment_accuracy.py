"""The segment kernel, below autograd, in bfloat16 against the formula in float64.

What ring attention asks of it: causal segments with more keys than queries, windows, rectangles, grouped
heads, segments of one token, keys and values as slices of one buffer, and a backward that is given the
output and log-sum-exp over MORE keys than it sees. The bound is that of `attention_accuracy`.

Shape letters: T queries of all segments, S keys of all segments, H query heads, G key/value heads,
K head dimension; 2 is key and value.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product

import torch
from attention_accuracy import FLOOR
from machine import Machine
from outcome import Outcome
from torch import Tensor

from model.attention.kernels import KERNELS, obstacle
from model.attention.segments import SegmentKernel, Segments
from parallel.sequence.merge import merge_part

TENSORS = ("o", "dq", "dk", "dv")
WINDOWS = (None, 1, 16, 128)
HEADS = ((4, 4), (8, 2), (4, 1))
HEAD_DIMS = (64, 128)
# Lengths of queries and of keys, segment by segment.
CAUSAL = {
    "square": ((1, 130, 1, 1, 77, 300), (1, 130, 1, 1, 77, 300)),
    "one query, many keys": ((1,), (150,)),
    "ones over many keys": ((1, 1, 1), (150, 1, 40)),
    "a halo of every size": ((5, 70, 1, 200, 64), (6, 133, 1, 215, 128)),
    "long halo": ((700,), (1100,)),
}
RECTANGLES = {"rectangles": ((70, 1, 5, 260), (3, 90, 1, 515)), "one query": ((1,), (333,))}
# Queries, keys before them, and whether they see one another too (causal): two calls, one softmax.
PARTS = {"rectangle + square": (200, 300, True), "two rectangles": (333, 256, False)}
# Rows around what a call is given: reading one of them would show.
MARGIN = 3
# A way to run a problem: its tensors and the log-sum-exp.
Run = Callable[[SegmentKernel, "Problem"], tuple[list[Tensor], Tensor]]
# Of the log-sum-exp: sums in float32 of exact products.
LSE_BOUND = 1e-3


@dataclass(frozen=True)
class Case:
    """One call of the kernel, or two that share their queries."""

    name: str
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    causal: bool
    window: int | None
    heads: int
    key_heads: int
    head_dim: int

    def __str__(self) -> str:
        shape = f"heads {self.heads}/{self.key_heads} of {self.head_dim}"
        return f"{self.name}, {shape}, window {self.window}"


@dataclass(frozen=True)
class Problem:
    """bfloat16 tensors between rows of NaN, and which query sees which key."""

    case: Case
    q_THK: Tensor
    kv_S2GK: Tensor
    do_THK: Tensor
    seen_TS: Tensor


def visible_TS(case: Case, device: torch.device) -> Tensor:
    """bool (T, S), straight from the definition."""
    seen_TS = torch.zeros(sum(case.query_lengths), sum(case.key_lengths), dtype=torch.bool)
    query = key = 0
    for n, m in zip(case.query_lengths, case.key_lengths, strict=True):
        own_T = torch.arange(m - n, m)[:, None]
        keys_S = torch.arange(m)[None]
        block_TS = torch.ones(n, m, dtype=torch.bool)
        if case.causal:
            block_TS &= keys_S <= own_T
        if case.window is not None:
            block_TS &= keys_S > own_T - case.window
        seen_TS[query : query + n, key : key + m] = block_TS
        query, key = query + n, key + m
    return seen_TS.to(device)


def problem_of(case: Case, machine: Machine) -> Problem:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(len(str(case)) + sum(case.key_lengths))
    queries, keys = sum(case.query_lengths), sum(case.key_lengths)

    def between_nan(*shape: int) -> Tensor:
        rows = torch.full((shape[0] + 2 * MARGIN, *shape[1:]), float("nan"))
        rows[MARGIN:-MARGIN] = torch.randn(shape, generator=generator)
        return rows.to(torch.bfloat16).to(machine.device)[MARGIN:-MARGIN]

    return Problem(
        case,
        between_nan(queries, case.heads, case.head_dim),
        between_nan(keys, 2, case.key_heads, case.head_dim),
        between_nan(queries, case.heads, case.head_dim),
        visible_TS(case, machine.device),
    )


def formula(
    problem: Problem, given: torch.dtype, inside: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """Output, gradients of q, k, v, and the log-sum-exp (T, H).

    given: dtype of the tensors that go in and come out. inside: dtype of every step.
    """
    q, k, v = (
        x.to(given).detach().requires_grad_() for x in (problem.q_THK, *problem.kv_S2GK.unbind(1))
    )
    repeats = problem.case.heads // problem.case.key_heads
    k_SHK, v_SHK = (x.to(inside).repeat_interleave(repeats, dim=1) for x in (k, v))
    scores_HTS = torch.einsum("thk,shk->hts", q.to(inside) * q.shape[-1] ** -0.5, k_SHK)
    scores_HTS = scores_HTS.masked_fill(~problem.seen_TS, float("-inf"))
    o_THK = torch.einsum("hts,shk->thk", scores_HTS.softmax(-1), v_SHK).to(given)
    gradients = torch.autograd.grad(o_THK, (q, k, v), problem.do_THK.to(given))
    return [o_THK.detach(), *gradients], scores_HTS.detach().logsumexp(-1).T


def in_one_call(kernel: SegmentKernel, problem: Problem) -> tuple[list[Tensor], Tensor]:
    """Like `formula`, by the kernel."""
    case = problem.case
    segments = Segments.from_lengths(
        case.query_lengths, case.key_lengths, causal=case.causal, window=case.window
    ).to(problem.q_THK.device)
    k_SGK, v_SGK = problem.kv_S2GK.unbind(1)
    o, lse_TH = kernel.forward(problem.q_THK, k_SGK, v_SGK, segments)
    o_THK = o.to(problem.q_THK.dtype)
    gradients = kernel.backward(
        problem.do_THK, problem.q_THK, k_SGK, v_SGK, o_THK, lse_TH, segments
    )
    return [o_THK, *gradients], lse_TH


def in_two_calls(kernel: SegmentKernel, problem: Problem) -> tuple[list[Tensor], Tensor]:
    """The same from two parts of the keys: outputs joined, gradients under the joined log-sum-exp."""
    case = problem.case
    (queries,), (keys,) = case.query_lengths, case.key_lengths
    border = keys - queries if case.causal else PARTS[case.name][1]
    parts = [
        (part_S2GK.unbind(1), segments.to(problem.q_THK.device))
        for part_S2GK, segments in (
            (
                problem.kv_S2GK[:border],
                Segments.from_lengths((queries,), (border,), causal=False),
            ),
            (
                problem.kv_S2GK[border:],
                Segments.from_lengths((queries,), (keys - border,), causal=case.causal),
            ),
        )
    ]
    (o, lse_TH), *others = (kernel.forward(problem.q_THK, *kv, parts) for kv, parts in parts)
    o = o.float()
    for part_o, part_lse_TH in others:
        merge_part(o, lse_TH, part_o, part_lse_TH)
    o_THK = o.to(problem.q_THK.dtype)
    found = [
        kernel.backward(problem.do_THK, problem.q_THK, *kv, o_THK, lse_TH, segments)
        for kv, segments in parts
    ]
    dq_THK = torch.stack([part[0].float() for part in found]).sum(0)
    return [o_THK, dq_THK, *(torch.cat([part[i] for part in found]) for i in (1, 2))], lse_TH


def cases(machine: Machine) -> Iterator[Case]:
    """Every shape with every number and width of heads; for a rehearsal one of each."""
    heads = HEADS[1:2] if machine.rehearsal else HEADS
    for query_heads, key_heads in heads:
        for head_dim in (32,) if machine.rehearsal else HEAD_DIMS:
            width = (query_heads, key_heads, head_dim)
            for name, (queries, keys) in CAUSAL.items():
                for window in WINDOWS[::2] if machine.rehearsal else WINDOWS:
                    yield Case(name, queries, keys, True, window, *width)
            for name, (queries, keys) in RECTANGLES.items():
                yield Case(name, queries, keys, False, None, *width)
            for name, (queries, before, causal) in PARTS.items():
                keys = before + queries if causal else before + 444
                yield Case(name, (queries,), (keys,), causal, None, *width)


def able_kernels(machine: Machine) -> list[SegmentKernel]:
    """Every kernel that serves bfloat16 here; on a GPU the CPU's own path is left out."""
    able = [k for k in KERNELS if not obstacle(k, machine.device.type, torch.bfloat16)]
    return [kernel() for kernel in able if kernel.backend.name != "banded" or not machine.is_cuda]


def check_segments(machine: Machine) -> Outcome:
    """All cases on every kernel."""
    outcome = Outcome(
        "Segment kernels in bfloat16 against float64: largest errors",
        ("kernel", "shape", *TENSORS, "log-sum-exp", "worst share of the bound"),
    )
    kernels = able_kernels(machine)
    outcome.expect(bool(kernels), "bfloat16 on CUDA is not served by any flash attention")
    for kernel, case in product(kernels, cases(machine)):
        run = in_two_calls if case.name in PARTS else in_one_call
        try:
            _judge(outcome, problem_of(case, machine), run, kernel)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            outcome.failures.append(
                f"{kernel.backend.name}: {case}: {(str(error).splitlines() or [''])[0]}"
            )
    for kernel, name in product(kernels, (*CAUSAL, *RECTANGLES, *PARTS)):
        rows = [
            r for r in outcome.numbers if (r["kernel"], r["name"]) == (kernel.backend.name, name)
        ]
        if rows:
            errors = [max(row["errors"][tensor] for row in rows) for tensor in TENSORS]
            worst = max(row["share"] for row in rows)
            lse = max(row["lse_error"] for row in rows)
            cells = (*(f"{error:.1e}" for error in errors), f"{lse:.1e}", f"{worst:.2f}")
            outcome.rows.append((kernel.backend.name, name, *cells))
    outcome.notes.append(
        f"Bound: 2 x the larger error of the formula in bfloat16 and in float32, + {FLOOR:g}; "
        f"log-sum-exp {LSE_BOUND:g}; windows {WINDOWS}; heads {HEADS} of {HEAD_DIMS}; the last two "
        "shapes are two calls each, joined, with gradients from the joined output."
    )
    return outcome


def _judge(outcome: Outcome, problem: Problem, run: Run, kernel: SegmentKernel) -> None:
    exact, exact_lse_TH = formula(problem, torch.float64, torch.float64)
    yardsticks = [
        _errors(formula(problem, torch.bfloat16, inside)[0], exact)
        for inside in (torch.bfloat16, torch.float32)
    ]
    bounds = {name: 2 * max(errors[name] for errors in yardsticks) + FLOOR for name in TENSORS}
    found, lse_TH = run(kernel, problem)
    errors = _errors(found, exact)
    lse_error = (lse_TH.double() - exact_lse_TH).abs().max().item()
    for name in TENSORS:
        line = f"{kernel.backend.name}: {problem.case}: {name}: error {errors[name]:.2e}, bound {bounds[name]:.2e}"
        outcome.expect(errors[name] <= bounds[name], line)
    outcome.expect(
        lse_error <= LSE_BOUND,
        f"{kernel.backend.name}: {problem.case}: log-sum-exp is {lse_error:.2e} off",
    )
    outcome.numbers.append(
        {
            "kernel": kernel.backend.name,
            **asdict(problem.case),
            "errors": errors,
            "bounds": bounds,
            "lse_error": lse_error,
            "share": max(errors[name] / bounds[name] for name in TENSORS),
        }
    )


def _errors(found: list[Tensor], exact: list[Tensor]) -> dict[str, float]:
    pairs = zip(TENSORS, found, exact, strict=True)
    return {name: (mine.double() - truth).abs().max().item() for name, mine, truth in pairs}
