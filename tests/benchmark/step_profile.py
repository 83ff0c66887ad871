"""Where the time of a quickstart step goes: CPU time by what computes, one rank, each stage's shape.

    PYTHONPATH=.:tests python tests/benchmark/step_profile.py

Kernels are told apart by torch's profiler, self time; the rest of a step (Python, DeepSpeed's own
bookkeeping) is what the kernels leave of the process's CPU time.
"""

import json
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from parallel import mesh as world
from train import build
from train.checkpointing.state import RunState
from train.configuration.compose import compose_run
from train.configuration.schema import RunConfig
from train.run import Run
from train.schedule.stages import Schedule, Stage, build_schedule
from train.step import optimizer_step

OUTPUT = Path("outputs/benchmarks/step_profile.json")
STEPS = 4
KINDS = {
    "attention kernels": ("flash_attention",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::linear"),
    "softmax and loss": ("logsumexp", "aten::exp", "aten::gather", "aten::scatter"),
    "copies and casts": ("copy_", "aten::cat", "aten::index", "aten::clone", "aten::constant_pad"),
    "optimizer": (
        "Optimizer",
        "addcmul",
        "addcdiv",
        "lerp",
        "aten::sqrt",
        "_foreach",
        "vector_norm",
    ),
    "communication": ("c10d", "gloo"),
}


def kind_of(name: str) -> str:
    """Which row of the table a kernel belongs to."""
    return next((k for k, parts in KINDS.items() if any(p in name for p in parts)), "element-wise")


def profile_stage(
    run: Run, schedule: Schedule, stage: Stage, config: RunConfig
) -> dict[str, float]:
    """CPU seconds a step by kind, and tokens a step."""
    run.state = RunState(tokens_seen=stage.start)
    corpus = build.prepare_corpus(config, run.mesh)
    kernels: Counter[str] = Counter()
    with build.build_loader(run, corpus) as loader:
        batches = islice(loader, STEPS + 1)
        point = schedule.at(stage.start)

        def step() -> None:
            optimizer_step(run.trainer, run.mesh, next(batches), point=point, stop=False)

        step()
        started = time.thread_time(), time.perf_counter()
        for _ in range(STEPS // 2):
            step()
        seconds = (time.perf_counter() - started[1]) / (STEPS // 2)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(STEPS // 2):
                step()
    for event in profiler.key_averages():
        kernels[kind_of(event.key)] += event.self_cpu_time_total / 1e6 / (STEPS // 2)
    return {**kernels, "step": seconds}


def main() -> None:
    """Profile each stage, print the table, write the file."""
    torch.set_num_threads(1)
    config = compose_run(
        [
            "experiment=quickstart",
            "run_name=step_profile",
            "paths.outputs=outputs/benchmarks",
            "paths.prepared=outputs/prepared",
            "logging.wandb.mode=disabled",
        ]
    )
    schedule, problems = build_schedule(config)
    assert schedule is not None, problems
    mesh = world.start(torch.device("cpu"), 600)
    corpus = build.prepare_corpus(config, mesh)
    run = build.build_run(
        config, mesh, schedule=schedule, corpus=corpus, state=RunState(), resume=None
    )
    found = {stage.name: profile_stage(run, schedule, stage, config) for stage in schedule.stages}
    world.stop()
    rows = [*KINDS, "element-wise"]
    write = sys.stdout.write
    write(f"{'self CPU time of kernels':<26}" + "".join(f"{name:>12}" for name in found) + "\n")
    for row in rows:
        write(f"{row:<26}")
        for times in found.values():
            total = sum(times.get(name, 0.0) for name in rows)
            write(f"{times.get(row, 0.0) / total:>12.1%}")
        write("\n")
    write(
        f"{'step of one rank, s':<26}"
        + "".join(f"{t['step']:>12.2f}" for t in found.values())
        + "\n"
    )
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
