"""Training beside Hugging Face's Cohere2: the same shape, weights and tokens, tokens/s in alternation.

    PYTHONPATH=.:tests python tests/benchmark/huggingface.py

A step is forward, loss, backward and `torch.optim.AdamW`, on two threads. Every case runs in a process of its own:
first both sides must give the same loss, then they take turns, a pair of steps at a time. A ratio is their time over
ours within one pair; the median over pairs is printed, by wall clock and by CPU time. At 32k both sides are one period
of the layer pattern, four layers instead of eight, do forward and backward once, and theirs has a time limit: what
did not end is printed as "more than". "packed" is documents of a half, a quarter and sixteenths of the stream: our plan
skips what lies in other documents; theirs has the block mask that transformers makes of restarting positions.

"of limit" is the least time that the needed operations take (`model/flops.py`) at the rates that this machine showed
for a matrix product and for causal attention, in the same dtype or in float32 where that is faster, over our time.
Prints the table and writes `outputs/benchmarks/huggingface.json`.
"""

import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from cohere2 import copy_weights, hf_inputs, hf_model, targets

from model.attention.core import choose_core
from model.attention.small_problems import Problem, attend, attend_backward
from model.config import ModelConfig
from model.flops import count_forward
from model.initialization import initialize
from model.logits import IGNORE
from model.packed_layout import PackedLayout
from model.transformer import Transformer

OUTPUT = Path("outputs/benchmarks/huggingface.json")
THREADS = 2
ROPE_BASE = 1e4
SHAPE = ModelConfig(
    num_layers=8,
    hidden_size=256,
    intermediate_size=768,
    num_heads=8,
    num_kv_heads=2,
    head_dim=32,
    vocab_size=8192,
    window=512,
)
# Cohere2 runs these on a CPU too; "flex_attention" has no backward there (torch 2.13 says so).
CANDIDATES = ("sdpa", "eager")
FIRST_LOOK = 2048
# float32: the same loss. bfloat16: the same again in float32, then what two orders of rounding leave.
SAME_LOSS = {"float32": 1e-4, "bfloat16": 2e-3}
Step = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One line of the table; most pairs of steps, and seconds after which it is ended."""

    tokens: int
    dtype: str
    stream: str
    pairs: int
    limit: int
    whole_step: bool = True

    @property
    def lengths(self) -> tuple[int, ...]:
        """The documents."""
        if self.stream == "one":
            return (self.tokens,)
        return (self.tokens // 2, self.tokens // 4, *(self.tokens // 16,) * 4)

    @property
    def shape(self) -> ModelConfig:
        """The model: whole, or one period of its pattern."""
        return SHAPE if self.whole_step else replace(SHAPE, num_layers=4)


CASES = (
    Case(2048, "float32", "one", 5, 120),
    Case(8192, "float32", "one", 3, 150),
    Case(8192, "float32", "packed", 2, 120),
    Case(32768, "float32", "one", 1, 300, whole_step=False),
    Case(2048, "bfloat16", "one", 3, 60),
    Case(8192, "bfloat16", "one", 2, 60),
    Case(32768, "bfloat16", "one", 1, 150, whole_step=False),
)


@dataclass(frozen=True)
class Side:
    """One of the two: a model and its mean loss over the valid targets of the stream."""

    model: torch.nn.Module
    mean_loss: Callable[[], torch.Tensor]

    def step(self, optimizer: torch.optim.Optimizer | None) -> float:
        """Forward, loss, backward, optimizer; the loss."""
        loss = self.mean_loss()
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        self.model.zero_grad()
        return loss.item()


def both_sides(case: Case, attention: str) -> tuple[Side, Side]:
    """Ours and theirs, on the same weights and tokens."""
    config, dtype = case.shape, getattr(torch, case.dtype)
    ours = Transformer(config, choose_core("auto", "cpu", dtype))
    initialize(ours, config, seed=0)
    ours = ours.to(dtype)
    theirs = hf_model(config, dtype, attention, rope_base=ROPE_BASE).train()
    copy_weights(ours, theirs)
    generator = torch.Generator().manual_seed(0)
    tokens_T = torch.randint(0, config.vocab_size, (case.tokens,), generator=generator)
    layout = PackedLayout.from_lengths(case.lengths)
    targets_T = targets(tokens_T, layout)
    inputs = hf_inputs(theirs, tokens_T, case.lengths)

    def our_loss() -> torch.Tensor:
        sums = ours.loss(ours(tokens_T, layout, ROPE_BASE), targets_T)
        return sums.total / (targets_T != IGNORE).sum()

    return Side(ours, our_loss), Side(theirs, lambda: theirs(**inputs).loss)


def check(case: Case, attention: str) -> None:
    """Refuse to time two models whose losses differ; on a short stream with the same documents."""
    short = replace(case, tokens=min(case.tokens, FIRST_LOOK))
    for dtype in dict.fromkeys(("float32", case.dtype)):
        with torch.no_grad():
            sides = both_sides(replace(short, dtype=dtype), attention)
            same(dtype, *(side.mean_loss().item() for side in sides))


def same(dtype: str, ours: float, theirs: float) -> None:
    """The losses of both sides are one."""
    assert abs(ours - theirs) < SAME_LOSS[dtype], f"{dtype}: losses {ours} and {theirs}"


def timed(step: Step) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and loss of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    loss = step()
    return time.perf_counter() - wall, time.process_time() - cpu, loss


def optimizer_of(side: Side, rate: float) -> torch.optim.Optimizer:
    """The same for both."""
    return torch.optim.AdamW(side.model.parameters(), lr=rate)


def warm_up(case: Case, attention: str) -> None:
    """Code paths and threads are ready before anything is timed."""
    for side in both_sides(replace(case, tokens=256), attention):
        side.step(optimizer_of(side, 1e-4))


def measure(case: Case, attention: str) -> Iterator[dict[str, Any]]:
    """The times as they come: of ours first, so that it is known when theirs does not end."""
    torch.set_num_threads(THREADS)
    check(case, attention)
    warm_up(case, attention)
    yield rates(case)
    sides = dict(zip(("ours", "theirs"), both_sides(case, attention), strict=True))
    optimizers = {
        name: optimizer_of(side, 1e-4) if case.whole_step else None for name, side in sides.items()
    }
    started, first_losses = time.perf_counter(), {}
    for number in range(case.pairs):
        for name in sorted(sides, reverse=number % 2 == 1):
            wall, cpu, loss = timed(lambda name=name: sides[name].step(optimizers[name]))
            first_losses.setdefault(name, loss)
            yield {"side": name, "pair": number, "wall": wall, "cpu": cpu}
        if number == 0:
            same(case.dtype, first_losses["ours"], first_losses["theirs"])
        so_far = time.perf_counter() - started
        if so_far * (number + 2) / (number + 1) > case.limit / 2:
            break


def rates(case: Case) -> dict[str, float]:
    """What this machine does: operations a second of a matrix product and of attention, training.

    In the case's dtype or in float32, whichever is faster: both are open to us.
    """
    found = {"matmul": 0.0, "attention": 0.0}
    for name in {case.dtype, "float32"}:
        dtype = getattr(torch, name)
        x, w = torch.randn(2048, 256, dtype=dtype), torch.randn(256, 768, dtype=dtype)
        found["matmul"] = max(found["matmul"], rate(2 * x.numel() * 768, lambda x=x, w=w: x @ w))
        shape = replace(SHAPE, num_layers=1, layer_pattern=["full_nope"])
        work = 3 * count_forward(shape, (2048,)).attention
        step = attention_step(shape, dtype)
        found["attention"] = max(found["attention"], rate(work, step))
    return found


def attention_step(shape: ModelConfig, dtype: torch.dtype) -> Callable[[], object]:
    """Causal attention of one layer, forward and backward, of 2,048 tokens."""
    q, do, k, v = (
        torch.randn(1, heads, 2048, shape.head_dim, dtype=dtype)
        for heads in (shape.num_heads, shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    )

    problem = Problem(q, k, v)

    def step() -> object:
        return attend_backward(do, problem, *attend(problem))

    return step


def rate(operations: float, work: Callable[[], object]) -> float:
    """Operations a second, the best of a few tries."""
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        work()
        best = max(best, operations / (time.perf_counter() - started))
    return best


def measure_apart(case: Case, attention: str) -> dict[str, Any]:
    """`measure` in a fresh process, ended `limit` seconds after it was ready; what it had found by then."""
    command = [sys.executable, __file__, json.dumps(asdict(case)), attention]
    found: dict[str, Any] = {"case": asdict(case), "attention": attention, "steps": []}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found["machine"] = json.loads(process.stdout.readline())
        timer = Timer(case.limit, process.kill)
        timer.start()
        heard = time.perf_counter()
        for printed in process.stdout:
            found["steps"].append(json.loads(printed))
            heard = time.perf_counter()
        timer.cancel()
    ended = process.returncode == -signal.SIGKILL
    if not found["steps"] or (process.returncode and not ended):
        raise RuntimeError(f"{case}: status {process.returncode} after {len(found['steps'])} steps")
    # Ours alone was heard: theirs had run since then.
    alone = len(found["steps"]) == 1
    return found | ({"theirs_more_than": time.perf_counter() - heard} if alone else {})


def fastest_attention() -> str:
    """The candidate whose single step at 2k tokens is shortest, in float32."""
    torch.set_num_threads(THREADS)
    seconds = {}
    case = Case(FIRST_LOOK, "float32", "one", 1, 0)
    for attention in CANDIDATES:
        check(case, attention)
        _, side = both_sides(case, attention)
        seconds[attention] = min(timed(lambda side=side: side.step(None))[1] for _ in range(2))
    sys.stdout.write(
        f"theirs at {FIRST_LOOK} tokens, CPU s: "
        + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        + "; flex_attention has no backward on a CPU\n"
    )
    return min(seconds, key=seconds.__getitem__)


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    case = Case(**found["case"])
    times = {
        side: [step for step in found["steps"] if step["side"] == side]
        for side in ("ours", "theirs")
    }
    ours = statistics.median(step["wall"] for step in times["ours"])
    work = count_forward(case.shape, case.lengths)
    machine = found["machine"]
    least = 3 * (work.dense / machine["matmul"] + work.attention / machine["attention"])
    text = f"{case.tokens >> 10:>5}k {case.dtype:9}{case.stream:8}{case.tokens / ours:>9.0f}"
    if "theirs_more_than" in found:
        more = found["theirs_more_than"]
        rate, ratio = f"<{case.tokens / more:.0f}", f">{more / ours:.2f}"
        if more < ours:  # ended too early to say anything
            rate, ratio = "-", "-"
        text += f"{rate:>9}{ratio:>20}{'':>7}"
    else:
        theirs = statistics.median(step["wall"] for step in times["theirs"])
        pairs = zip(times["theirs"], times["ours"], strict=False)
        ratios = [(a["wall"] / b["wall"], a["cpu"] / b["cpu"]) for a, b in pairs]
        wall, cpu = ([ratio[clock] for ratio in ratios] for clock in (0, 1))
        middle = f"{statistics.median(wall):.2f} ({min(wall):.2f}-{max(wall):.2f})"
        text += f"{case.tokens / theirs:>9.0f}{middle:>20}{statistics.median(cpu):>7.2f}"
    text += f"{least / ours:>9.0%}{machine['matmul'] / 1e9:>8.0f}{machine['attention'] / 1e9:>6.0f}"
    return text + "\n"


def main() -> None:
    """Measure every case, print the table, write the file."""
    write = sys.stdout.write
    heads = f"heads {SHAPE.num_heads}/{SHAPE.num_kv_heads} of {SHAPE.head_dim}"
    write(f"{SHAPE.num_layers} layers of width {SHAPE.hidden_size}, {heads}, window {SHAPE.window}")
    write(f", vocabulary {SHAPE.vocab_size}; {THREADS} threads\n")
    attention = fastest_attention()
    write(f"{'':24}{'tokens/s':>17}{'theirs over ours':>21}{'':>6}{'ours':>9}{'GFLOP/s':>13}\n")
    write(f"{'tokens':>6} {'dtype':9}{'stream':8}{'ours':>9}{'theirs':>9}")
    write(f"{'wall':>20}{'cpu':>7}{'of limit':>9}{'matmul':>8}{'attn':>6}\n")
    record = []
    for case in CASES:
        found = measure_apart(case, attention)
        write(line(found))
        sys.stdout.flush()
        record.append(found)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({"torch": torch.__version__, "cases": record}, indent=1) + "\n")


def measure_here(case: Case, attention: str) -> None:
    """One JSON line for each thing found, at once."""
    for found in measure(case, attention):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure_here(Case(**json.loads(sys.argv[1])), sys.argv[2])
    else:
        main()
