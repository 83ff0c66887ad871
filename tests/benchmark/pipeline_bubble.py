"""Idle time of pipeline schedules, measured beside what they promise, with a picture of each.

    PYTHONPATH=.:tests python tests/benchmark/pipeline_bubble.py

Two kinds of runs through the real runner, gloo transfers included:

- `pretended`: four ranks whose layers sleep for as long as their FLOPs say (a full layer longer than a
  windowed one, each backward as long as its forward for inputs and for weights) instead of computing, as
  if every rank had a device of its own. This shows the schedules themselves.
- `computed`: two ranks that share this machine's cores and really train a small model.

"same work" is the bubble that the measured durations would leave if transfers took no time; "ideal" that of equal
stages; "even" is the share of the mean rank's work in the busiest one's. Prints a table, writes
`outputs/benchmarks/pipeline_bubble.json`, one SVG a run beside it, and docs/pictures/pipeline.svg.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.kind_at_step import KindAtStep
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.mesh import start
from parallel.pipeline.balance import head_cost, layer_costs
from parallel.pipeline.placement import place_stages
from parallel.pipeline.runner import PipelineRunner
from parallel.pipeline.schedule import TimedAction, bubble, ideal_bubble
from parallel.pipeline.split import split_layers
from parallel.pipeline.timeline import (
    Recorder,
    replayed_bubble,
    timeline_table,
    write_timeline,
)
from parallel.topology import Topology
from rank_work import stage_work
from ranks import run_on_ranks

FOLDER = Path("outputs/benchmarks")
PICTURE = Path("docs/pictures/pipeline.svg")
CPU = torch.device("cpu")
TOKENS = 1024
# Seconds that all layers' forwards sleep together for one micro-batch.
PRETENDED_SECONDS = 0.16
WARM_UP_STEPS, MEASURED_STEPS = 1, 3
# In the picture: of the pretended runs, those with so many micro-batches.
PICTURED = 8
COLOURS = {"F": "#3465a4", "B": "#e08a1e", "I": "#e08a1e", "W": "#2e9a6a"}
WORDS = {"F": "forward", "B": "backward (zbv: of inputs)", "W": "backward of weights"}
MODEL = ModelConfig(
    num_layers=16,
    hidden_size=128,
    intermediate_size=352,
    num_heads=4,
    num_kv_heads=2,
    vocab_size=2048,
    window=128,
)


@dataclass(frozen=True)
class Case:
    """One measurement."""

    kind: str
    schedule: str
    ranks: int
    micro_batches: int


CASES = (
    *(
        Case("pretended", schedule, 4, m)
        for schedule in ("1f1b", "interleaved_1f1b", "zbv")
        for m in (8, 16)
    ),
    *(Case("computed", schedule, 2, 8) for schedule in ("1f1b", "interleaved_1f1b", "zbv")),
)


@dataclass(frozen=True)
class Stream:
    """A micro-batch."""

    tokens_T: Tensor
    targets_T: Tensor
    layout: PackedLayout


class Sleep(torch.autograd.Function):
    """Takes some time forward and some backward, and changes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_seconds: float, backward_seconds: float) -> Tensor:
        ctx.seconds = backward_seconds
        time.sleep(forward_seconds)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        time.sleep(ctx.seconds)
        return gradient, None, None


def pretender(
    config: ModelConfig,
) -> Callable[[nn.Module, Tensor, PackedLayout, KindAtStep], Tensor]:
    """A layer runner that sleeps; gradients of inputs and weights cost as much as the forward, each."""
    costs = layer_costs(config, TOKENS)
    seconds = {
        config.window: PRETENDED_SECONDS * costs[0] / sum(costs),
        None: PRETENDED_SECONDS * costs[3] / sum(costs),
    }

    def run(layer: nn.Module, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
        cost = seconds[layer.attention.spec.window]
        weight_D = Sleep.apply(layer.norm.weight, 0.0, cost)
        return Sleep.apply(x_TD, cost, cost) * weight_D

    return run


def streams(config: ModelConfig, count: int) -> list[Stream]:
    """Packed streams of three documents each."""
    layout = PackedLayout.from_lengths((TOKENS // 2, TOKENS // 4, TOKENS // 4))
    found = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        tokens_T = torch.randint(0, config.vocab_size, (TOKENS,), generator=generator)
        found.append(Stream(tokens_T, tokens_T.roll(-1), layout))
    return found


def run_case(case: Case) -> list[list[TimedAction]]:
    """What all ranks did in every measured step."""
    config, parallel = configs(case)

    def work(rank: int, world_size: int) -> list[list[TimedAction]]:
        mesh = start(CPU, 120, Topology(pipeline=case.ranks))
        placement = place_stages(parallel)
        layers = split_layers(config, parallel, TOKENS)
        stages = []
        for stage in placement.stages_of(rank):
            ends = {"has_embedding": stage == 0, "has_head": stage == placement.num_stages - 1}
            core = choose_core("auto", CPU, torch.float32)
            model = Transformer(config, core, layer_indices=layers[stage], **ends)
            initialize(model, config, seed=0)
            if case.kind == "pretended":
                model.run_layer = pretender(config)
            stages.append(model)
        runner = PipelineRunner(stages, placement, mesh)
        recorder = Recorder(mesh)
        batch = streams(config, case.micro_batches)
        found = []
        for step in range(WARM_UP_STEPS + MEASURED_STEPS):
            runner.recorder = recorder
            recorder.start()
            runner.forward_backward(
                batch, 1e4, lambda last, hidden, one: last.loss(hidden, one.targets_T).total
            )
            if step >= WARM_UP_STEPS:
                found.append(recorder.gather())
        return found

    return run_on_ranks(work, case.ranks, timeout=300)[0]


def configs(case: Case) -> tuple[ModelConfig, ParallelConfig]:
    """The model and layout of a case; a pretended model is narrow, so that sleeping is all it does."""
    parallel = ParallelConfig(pipeline=case.ranks, pipeline_schedule=case.schedule)
    if case.kind == "computed":
        return MODEL, parallel
    narrow = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 64, "tie_embeddings": False}
    return ModelConfig(**asdict(MODEL) | narrow), parallel


def draw(runs: list[tuple[Case, list[TimedAction]]]) -> str:
    """Runs below one another on one scale of time: a row a rank, a box an action with its micro-batch."""
    left, width, row, top = 70, 790, 24, 44
    scale = width / max(_span(timed) for _, timed in runs)
    parts = [_text(20, 24, "Three schedules, the same layers and micro-batches, one scale of time")]
    for case, timed in runs:
        idle, span = bubble(timed, case.ranks), _span(timed)
        said = f"{case.schedule}: {span:.2f} s, {idle:.0%} idle"
        parts.append(_text(20, top + 16, said))
        begin = min(one.start for one in timed)
        for rank in range(case.ranks):
            y = top + 26 + rank * row
            parts.append(_text(20, y + 15, f"rank {rank}"))
            shape = f'x="{left}" y="{y}" width="{span * scale:.1f}" height="{row - 3}"'
            parts.append(f'<rect class="i" {shape}/>')
        for one in timed:
            x, wide = left + (one.start - begin) * scale, (one.end - one.start) * scale
            parts += _action(one, x, top + 26 + one.rank * row, wide, case.ranks)
        top += 38 + case.ranks * row
    x = 20
    for kind, words in WORDS.items():
        parts.append(f'<rect x="{x}" y="{top - 4}" width="12" height="12" fill="{COLOURS[kind]}"/>')
        parts.append(_text(x + 18, top + 7, words))
        x += 40 + 7 * len(words)
    parts.append(_text(x, top + 7, "number: micro-batch; faint: the rank's second stage"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 {top + 24}" width="880" '
        'font-family="system-ui, sans-serif" font-size="13">\n'
        "<style>.b{fill:#ffffff}.t{fill:#222222}.i{fill:#e6e9ee}\n"
        "@media (prefers-color-scheme: dark)"
        "{.b{fill:#14181d}.t{fill:#e6e6e6}.i{fill:#2a3038}}</style>\n"
        f'<rect class="b" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def _action(one: TimedAction, x: float, y: float, width: float, ranks: int) -> list[str]:
    later = one.action.stage >= ranks
    shape = f'x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="21"'
    paint = f'fill="{COLOURS[one.action.kind]}" opacity="{0.6 if later else 1}"'
    parts = [f'<rect {shape} {paint} stroke="#ffffff" stroke-width="0.6"/>']
    if width > 9:
        middle = f'x="{x + width / 2:.1f}" y="{y + 15}" text-anchor="middle" font-size="11"'
        parts.append(f'<text {middle} fill="#ffffff">{one.action.micro_batch}</text>')
    return parts


def _text(x: float, y: float, words: str) -> str:
    return f'<text class="t" x="{x}" y="{y}">{words}</text>'


def _span(timed: list[TimedAction]) -> float:
    return max(one.end for one in timed) - min(one.start for one in timed)


def main() -> None:
    """Run every case, print the table, write the files."""
    write = sys.stdout.write
    write(f"{MODEL.num_layers} layers, every fourth full, {TOKENS} tokens a micro-batch\n")
    write(f"{'runs':11}{'schedule':18}{'ranks':>6}{'micro':>7}{'step s':>8}")
    write(f"{'measured':>10}{'same work':>11}{'ideal':>8}{'even':>7}\n")
    record, pictured = [], []
    for case in CASES:
        config, parallel = configs(case)
        placement = place_stages(parallel)
        steps = run_case(case)
        # The quickest step: on a shared machine the others waited for somebody else.
        timed = min(steps, key=lambda step: max(one.end for one in step))
        sizes = [len(layers) for layers in split_layers(config, parallel, TOKENS)]
        costs = layer_costs(config, TOKENS)
        work = stage_work(sizes, costs, head_cost(config, TOKENS), placement)
        row = {
            **asdict(case),
            "layers_of_stages": sizes,
            "seconds": _span(timed),
            "measured_bubble": bubble(timed, case.ranks),
            "same_durations_bubble": replayed_bubble(timed, placement, case.micro_batches),
            "ideal_bubble": ideal_bubble(placement, case.micro_batches),
            "mean_rank_over_busiest": sum(work) / len(work) / max(work),
        }
        record.append(row)
        if (case.kind, case.micro_batches) == ("pretended", PICTURED):
            pictured.append((case, timed))
        write(f"{case.kind:11}{case.schedule:18}{case.ranks:6}{case.micro_batches:7}")
        write(f"{row['seconds']:8.3f}{row['measured_bubble']:10.1%}")
        write(f"{row['same_durations_bubble']:11.1%}{row['ideal_bubble']:8.1%}")
        write(f"{row['mean_rank_over_busiest']:7.1%}\n")
        sys.stdout.flush()
        name = f"pipeline_{case.kind}_{case.schedule}_{case.micro_batches}"
        title = (
            f"{case.schedule}: {case.ranks} ranks, {case.micro_batches} micro-batches, bubble "
            f"{row['measured_bubble']:.1%} (ideal {row['ideal_bubble']:.1%})"
        )
        write_timeline(FOLDER / f"{name}.svg", timed, title)
        (FOLDER / f"{name}.txt").write_text(
            timeline_table(timed, placement, case.micro_batches) + "\n"
        )
    (FOLDER / "pipeline_bubble.json").write_text(
        json.dumps({"torch": torch.__version__, "cases": record}, indent=2) + "\n"
    )
    PICTURE.write_text(draw(pictured))


if __name__ == "__main__":
    main()
