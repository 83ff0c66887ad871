"""Tokens a second of an evaluation beside those of the training step, and the memory of an evaluation by length.

    PYTHONPATH=.:tests python tests/benchmark/evaluation_speed.py

Speed: the model of the quickstart, one rank, one core. A step and the kinds of forwards that evaluations make read
the same micro-batches, in turns; the seconds are CPU seconds of the process, so that other work on the machine does not
count, and the ratio is that of the medians. The issue's promise is 2.5 times.

Memory: one document of 64k and of 128k tokens through a hybrid of four layers, whose windows are 128 tokens; the last
layer is full. `held`: every storage that an operation allocates is counted while it lives (`LiveBytes` of
tests/parity/test_sequence_memory.py), so this peak is exact. `resident`: by how much the process grew, what kernels
hold inside them included. Beside them, what the whole logits, and the scores of one head of one full layer, would take.

Prints a table and writes `outputs/benchmarks/evaluation_speed.json`.
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch

from data.batch import IGNORE
from data.loader import GlobalBatch
from parallel import mesh as world
from ranks import run_on_ranks
from tests.parity.test_evaluation_memory import MODEL, peak_of
from train import build
from train.checkpointing.state import RunState
from train.configuration.compose import compose_run
from train.objective import to_device
from train.run import Run
from train.schedule.stages import Schedule, Stage, build_schedule
from train.step import optimizer_step

OUTPUT = Path("outputs/benchmarks/evaluation_speed.json")
PROMISED = 2.5
ROUNDS = 5
PRECISIONS = ("bfloat16", "float32")
# Of held-out loss; of accuracy, where every token is scored; of prompts, where the answer's tokens are, here one of 16.
WAYS = ("token_losses", "predictions", "answers")
SCORED = 16
LENGTHS = (65_536, 131_072)
SIZES = ("held", "resident", "logits", "scores")


def table(numbers: Mapping[str, Any]) -> str:
    """The table of the numbers."""
    head = "".join(f"{name:>14}{'ratio':>7}" for name in WAYS)
    lines = [f"{'precision':10}{'length':>8}{'training':>10}{head}   tokens/s"]
    for row in numbers["speed"]:
        cells = "".join(f"{row[name]:14,.0f}{row[name] / row['training']:7.2f}" for name in WAYS)
        lines.append(f"{row['precision']:10}{row['length']:8,}{row['training']:10,.0f}{cells}")
    head = "".join(f"{name + ', MiB':>15}" for name in SIZES)
    lines += ["", f"{'one forward':14}{'length':>10}{head}"]
    for row in numbers["memory"]:
        cells = "".join(f"{row[name] / 2**20:15,.1f}" for name in SIZES)
        lines.append(f"{row['what']:14}{row['length']:10,}{cells}")
    return "\n".join(lines)


def ways_of(
    run: Run, schedule: Schedule, stage: Stage, batch: GlobalBatch
) -> dict[str, Callable[[], Any]]:
    """What is measured, by name: each reads all micro-batches of the batch once."""
    point = schedule.at(stage.start)
    micro_batches = [to_device(one, run.mesh.device) for one in batch.micro_batches]
    answers = [replace(one, targets_T=_few(one.targets_T)) for one in micro_batches]
    at = point.at_length(stage.shape.sequence_length)
    return {
        "training": lambda: optimizer_step(run.trainer, run.mesh, batch, point=point, stop=False),
        "token_losses": lambda: [run.trainer.token_losses([one], at) for one in micro_batches],
        "predictions": lambda: [run.trainer.predictions([one], at) for one in micro_batches],
        "answers": lambda: [run.trainer.predictions([one], at) for one in answers],
    }


def _few(targets_T: torch.Tensor) -> torch.Tensor:
    """Returns one target of every so many, the last."""
    scored_T = torch.arange(1, len(targets_T) + 1) % SCORED == 0
    return torch.where(scored_T, targets_T, IGNORE)


def speed_of(run: Run, schedule: Schedule, stage: Stage) -> dict[str, float]:
    """Tokens a CPU second, by way."""
    run.state = RunState(tokens_seen=stage.start)
    with build.build_loader(run, build.prepare_corpus(run.config, run.mesh)) as loader:
        (batch,) = islice(loader, 1)
    seconds: dict[str, list[float]] = {}
    for number in range(ROUNDS + 1):
        for name, way in ways_of(run, schedule, stage, batch).items():
            started = time.process_time()
            way()
            if number:  # the first round warms up
                seconds.setdefault(name, []).append(time.process_time() - started)
    return {name: stage.shape.batch_tokens / statistics.median(s) for name, s in seconds.items()}


def speeds() -> list[dict[str, Any]]:
    """A row for every precision and length."""
    mesh, rows = world.start(torch.device("cpu"), 600), []
    for precision in PRECISIONS:
        config = compose_run(
            [
                "experiment=quickstart",
                f"run_name=evaluation_speed_{precision}",
                "paths.outputs=outputs/benchmarks",
                "paths.prepared=outputs/prepared",
                "logging.wandb.mode=disabled",
                f"train.precision={precision}",
            ]
        )
        schedule, problems = build_schedule(config)
        assert schedule is not None, problems
        corpus = build.prepare_corpus(config, mesh)
        run = build.build_run(
            config, mesh, schedule=schedule, corpus=corpus, state=RunState(), resume=None
        )
        for stage in schedule.stages:
            found = speed_of(run, schedule, stage)
            rows.append({"precision": precision, "length": stage.shape.sequence_length, **found})
    world.stop()
    return rows


def memory() -> list[dict[str, Any]]:
    """A row for every way and length; each is measured in a process of its own."""

    def grown(length: int, what: str) -> dict[str, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held, _ = peak_of(length, what)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"held": held, "resident": 1024 * (after - before)}

    rows = []
    for what, length in product(WAYS[:2], LENGTHS):
        (found,) = run_on_ranks(partial(lambda given, *_: grown(*given), (length, what)), 1)
        whole = {"logits": 4 * length * MODEL.vocab_size, "scores": 4 * length**2}
        rows.append({"what": what, "length": length, **found, **whole})
    return rows


def main() -> None:
    """Measure, print the table, write the file."""
    torch.set_num_threads(1)
    numbers = {"memory": memory(), "speed": speeds()}
    sys.stdout.write(table(numbers) + "\n")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
