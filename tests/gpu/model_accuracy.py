"""The whole model: bfloat16 against float32, and what recomputation and offload change.

First question: does a bfloat16 model on a fast backend lose at most twice what the same model loses
on a yardstick of `attention_accuracy` (the dense core, or the plain formula in bfloat16)? Losses are
compared token by token and gradients parameter by parameter, in the root mean square: a mean loss
may be right by luck. Second question: do recomputation and offload give the same gradients, and
less memory at each step?
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from attention_accuracy import able_backends, plain_attention
from machine import GIB, Machine
from outcome import Outcome
from torch import Tensor

from model.at_step import AtStep
from model.attention.core import AttentionCore, choose_core
from model.attention.dense import DenseCore
from model.config import ModelConfig
from model.initialization import initialize
from model.logits import IGNORE
from model.packed_layout import PackedLayout
from model.transformer import Transformer

SEED, ROPE_BASE = 3, 10_000.0
TOKEN_LOSSES = "token losses"
# From least to most saved: the peaks must fall in this order.
KEPT = ("everything", "attention", "input", "input_on_cpu")
# Flash backwards add in no fixed order, so two equal runs differ; another way of keeping differs by no more than so
# many times that. Where kernels add in order it must be nothing at all.
OF_TWO_EQUAL_RUNS = 2.0
# Where the yardstick itself is nearly exact: a part in ten thousand of the tensor.
FLOOR = 1e-4


@dataclass(frozen=True)
class Problem:
    """A packed stream with its targets, and the model that reads it."""

    config: ModelConfig
    lengths: Sequence[int]
    layout: PackedLayout
    tokens_T: Tensor
    targets_T: Tensor

    def on(self, device: str) -> "Problem":
        """The same on another device."""
        layout = PackedLayout.from_lengths(self.lengths, device)
        tokens_T, targets_T = self.tokens_T.to(device), self.targets_T.to(device)
        return replace(self, layout=layout, tokens_T=tokens_T, targets_T=targets_T)


@dataclass(frozen=True)
class Answer:
    """float32 losses of every token and float32 gradients by name, on the CPU."""

    losses_T: Tensor
    gradients: dict[str, Tensor]

    @property
    def mean_loss(self) -> float:
        """Over the tokens that have a target."""
        return (self.losses_T.sum() / (self.losses_T != 0).sum()).item()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is compared, by what it is called in the tables."""
        return {TOKEN_LOSSES: self.losses_T, **self.gradients}


def parity_problem(machine: Machine) -> Problem:
    """Four layers, three of them windowed, over documents around the window's length."""
    window = 16 if machine.rehearsal else 128
    config = ModelConfig(
        num_layers=4,
        hidden_size=64 if machine.rehearsal else 256,
        intermediate_size=96 if machine.rehearsal else 704,
        num_heads=8,
        num_kv_heads=2,
        head_dim=64,
        vocab_size=1024,
        window=window,
    )
    return _problem(config, (1, window, window + 1, 6 * window - 5, 50, 37), machine)


def memory_problem(machine: Machine) -> Problem:
    """Deep and long enough for activations to outweigh everything else."""
    config = ModelConfig(
        num_layers=4 if machine.rehearsal else 16,
        hidden_size=64 if machine.rehearsal else 512,
        intermediate_size=96 if machine.rehearsal else 1408,
        num_heads=8,
        num_kv_heads=2,
        head_dim=64,
        vocab_size=1024,
        window=32 if machine.rehearsal else 1024,
    )
    tokens = 256 if machine.rehearsal else 32_768
    return _problem(config, (tokens // 2, tokens // 4, tokens // 4 - 9, 9), machine)


def _problem(config: ModelConfig, lengths: Sequence[int], machine: Machine) -> Problem:
    layout = PackedLayout.from_lengths(lengths, machine.device)
    generator = torch.Generator().manual_seed(SEED)
    tokens_T = torch.randint(config.vocab_size, (sum(lengths),), generator=generator)
    targets_T = tokens_T.roll(-1)
    ends = list(itertools.accumulate(lengths))
    targets_T[ends[:-1]] = IGNORE
    targets_T[ends[-2] :] = IGNORE  # the last document is padding
    return Problem(
        config, lengths, layout, tokens_T.to(machine.device), targets_T.to(machine.device)
    )


def build(problem: Problem, core: AttentionCore, dtype: torch.dtype) -> Transformer:
    """A model whose weights are the same bfloat16 numbers in every dtype."""
    with torch.device("meta"):
        model = Transformer(problem.config, core)
    model.to_empty(device=problem.tokens_T.device)
    initialize(model, problem.config, SEED)
    return model.to(torch.bfloat16).to(dtype)


def answer(model: Transformer, problem: Problem) -> Answer:
    """Losses and gradients of the mean loss."""
    at = AtStep.of(problem.config, ROPE_BASE, (max(problem.lengths),))
    hidden_TD = model(problem.tokens_T, problem.layout, at)
    losses_T = model.token_losses(hidden_TD.detach(), problem.targets_T)
    sums = model.loss(hidden_TD, problem.targets_T)
    named = dict(model.named_parameters())
    mean = sums.total / (problem.targets_T != IGNORE).sum()
    gradients = torch.autograd.grad(mean, list(named.values()))
    on_cpu = [gradient.detach().float().cpu() for gradient in gradients]
    return Answer(losses_T.float().cpu(), dict(zip(named, on_cpu, strict=True)))


def distance(one: Tensor, other: Tensor) -> float:
    """The 2-norm of the difference."""
    return float((one - other).norm())


def check_model(machine: Machine) -> Outcome:
    """bfloat16 on every able backend against float32 on the dense core."""
    torch.set_float32_matmul_precision("highest")  # TF32 would be an oracle of 10 bits
    outcome = Outcome(
        "Whole model in bfloat16 against float32 on the dense core",
        ("backend", "mean loss", "token losses off by", "gradients: worst share of the bound"),
    )
    problem = parity_problem(machine)
    exact = answer(build(problem, DenseCore(), torch.float32), problem)
    yardsticks = [
        answer(build(problem, core, torch.bfloat16), problem)
        for core in (DenseCore(), plain_attention)
    ]
    able, _ = able_backends(machine)
    for name, core in able.items():
        model = build(problem, core, torch.bfloat16)
        _judge(outcome, name, answer(model, problem), exact=exact, yardsticks=yardsticks)
    outcome.notes.append(
        f"float32 mean loss {exact.mean_loss:.4f}. Bound: 2 x the distance of the bfloat16 model on the "
        f"dense core or on the plain formula, + {FLOOR:g} of the float32 tensor, in the root mean square "
        "of all token losses and of every parameter's gradient."
    )
    return outcome


def _judge(
    outcome: Outcome, name: str, found: Answer, *, exact: Answer, yardsticks: list[Answer]
) -> None:
    mine, truth, rods = found.tensors(), exact.tensors(), [rod.tensors() for rod in yardsticks]
    shares: dict[str, float] = {}
    for key, true in truth.items():
        error = distance(mine[key], true)
        bound = 2 * max(distance(rod[key], true) for rod in rods) + FLOOR * float(true.norm())
        shares[key] = error / bound
        line = f"{name}: {key}: distance {error:.2e} from float32, bound {bound:.2e}"
        outcome.expect(error <= bound, line)
    off = distance(found.losses_T, exact.losses_T) / len(exact.losses_T) ** 0.5
    worst = max((key for key in shares if key != TOKEN_LOSSES), key=lambda key: shares[key])
    outcome.rows.append(
        (name, f"{found.mean_loss:.4f}", f"{off:.1e}", f"{shares[worst]:.2f} ({worst})")
    )
    outcome.numbers.append(
        {"backend": name, "mean_loss": found.mean_loss, "token_loss_rms": off, "shares": shares}
    )


def check_memory(machine: Machine) -> Outcome:
    """One forward and backward under each way of keeping activations."""
    outcome = Outcome(
        "Activations: kept, recomputed, offloaded",
        ("layers keep", "peak GiB", "ms", "largest change of a gradient"),
    )
    problem = memory_problem(machine)
    core = choose_core("auto", machine.device, torch.bfloat16)
    model = build(problem, core, torch.bfloat16)
    first = answer(model, problem)  # also warms up: cuBLAS takes its workspace now
    peaks, allowed = [], 0.0
    for kept in KEPT:
        model.keep_for_backward(kept)
        machine.forget()
        found = answer(model, problem)
        peaks.append(machine.peak_bytes())
        changes = {
            key: distance(gradient, first.gradients[key]) / first.gradients[key].norm().item()
            for key, gradient in found.gradients.items()
        }
        worst = max(changes, key=lambda key: changes[key])
        if kept == KEPT[0]:
            allowed = OF_TWO_EQUAL_RUNS * changes[worst]
        line = f"keep_for_backward={kept}: gradient of {worst} moves by {changes[worst]:.1e}"
        outcome.expect(changes[worst] <= allowed, f"{line}, allowed {allowed:.1e}")
        milliseconds = machine.median_milliseconds(lambda: answer(model, problem), seconds=1.0)
        change = f"{changes[worst]:.1e}" if changes[worst] else "none"
        outcome.rows.append((kept, f"{peaks[-1] / GIB:.2f}", f"{milliseconds:.0f}", change))
        outcome.numbers.append(
            {
                "kept": kept,
                "peak_bytes": peaks[-1],
                "milliseconds": milliseconds,
                "changes": changes,
            }
        )
    if machine.is_cuda:
        steps = list(zip(KEPT, peaks, strict=True))
        for (more, above), (less, below) in itertools.pairwise(steps):
            outcome.expect(below < above, f"{less} peaks at {below:,} bytes, {more} at {above:,}")
    outcome.notes.append(
        f"{problem.config.num_layers} layers of width {problem.config.hidden_size}, "
        f"{problem.layout.num_tokens:,} tokens, core {getattr(core, 'name', 'auto')}; ms: one forward "
        "and backward, gradients copied to the CPU. The first row's change is between two equal runs: "
        "what the kernels' order of addition moves by itself."
    )
    return outcome
