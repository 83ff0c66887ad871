"""Everything that only a GPU can prove, in a few minutes: `make gpu-check`.

    PYTHONPATH=.:tests python tests/gpu/gpu_check.py [--parts NAME ...] [--rehearse]

Kernels against the dense oracle, ring attention on virtual ranks, the whole model against float32, position methods
and forms of attention, activation memory, training speed of models of 1B and 3B, the same beside Hugging Face, the
longest stream, runs with a kill and a resume, and throughput tables. Tables are printed as Markdown, each as soon as it
is there, and go to `outputs/benchmarks/gpu_check.md`; every number goes to `gpu_check.json` beside it, again after each
row. `--write-docs` puts the tables into `docs/benchmarks.md`. The exit status is 1 when something fails, 0 when all is
well or there is no GPU. `--rehearse` tries all of it, small, on a CPU.

A part has seconds, and so has the whole: a part that is late begins nothing new and says "no time left", and one
that would begin behind the end is left out. `--patience 2` doubles all of them.
"""

import argparse
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

# Before torch looks: streams of many lengths would leave the memory in pieces that no long one fits in.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
# Flash attention 4 compiles a kernel for seconds when it first meets a shape: the next check finds it on disk.
os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")

import torch
from attention_accuracy import check_attention
from attention_throughput import check_throughput
from form_accuracy import check_forms
from huggingface_speed import check_huggingface
from longest_stream import check_longest
from machine import Machine
from model_accuracy import check_memory, check_model
from outcome import Outcome
from ring_accuracy import check_ring, check_waiting
from ring_throughput import check_ring_throughput
from segment_accuracy import check_segments
from training_run import check_deterministic, check_training, check_variants
from training_speed import check_speed

Check = Callable[[Machine, Path], Outcome]
BEGIN, END = "<!-- gpu_check: begin -->", "<!-- gpu_check: end -->"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"

# What is checked, in this order: the cheap and telling first. And about how many seconds it takes on an H200, behind
# which it begins nothing new.
PARTS: dict[str, tuple[float, Check]] = {
    "attention": (10, lambda machine, _: check_attention(machine)),
    "segments": (28, lambda machine, _: check_segments(machine)),
    "model": (6, lambda machine, _: check_model(machine)),
    # Estimated, not measured: twelve models are compiled.
    "forms": (45, lambda machine, _: check_forms(machine)),
    "ring": (28, lambda machine, _: check_ring(machine)),
    "waiting": (4, lambda machine, _: check_waiting(machine)),
    "throughput": (26, lambda machine, _: check_throughput(machine)),
    "ring_throughput": (22, lambda machine, _: check_ring_throughput(machine)),
    "speed": (155, lambda machine, _: check_speed(machine)),
    "huggingface": (65, lambda machine, _: check_huggingface(machine)),
    "longest": (58, lambda machine, _: check_longest(machine)),
    "memory": (12, lambda machine, _: check_memory(machine)),
    "training": (95, check_training),
    "variants": (150, check_variants),
    "deterministic": (90, check_deterministic),
}
WHOLE_SECONDS = 520.0
# Runs of the command: what is begun goes on to its end, so it must fit.
RUNS = ("training", "variants", "deterministic")
# Less than this is not worth beginning with.
FEWEST_SECONDS = 4.0


def run_part(name: str, machine: Machine, outputs: Path) -> Outcome:
    """One part; what it throws is its failure and does not cost the other parts."""
    started = time.perf_counter()
    latest: list[Outcome] = []

    def record(outcome: Outcome) -> None:
        latest[:] = [outcome]
        machine.record(outcome)

    try:
        machine.forget()
        outcome = PARTS[name][1](replace(machine, record=record), outputs)
    except Exception:  # whatever it is, the machine is borrowed: go on and tell it at the end
        sys.stderr.write(traceback.format_exc())
        last = traceback.format_exc().strip().splitlines()[-1]
        outcome = latest[0] if latest else Outcome(f"{name}: did not finish")
        outcome.failures.append(f"{name}: {last}")
    outcome.seconds = time.perf_counter() - started
    return outcome


def write_record(path: Path, machine: dict[str, str], outcomes: dict[str, Outcome]) -> None:
    """Everything so far, as JSON."""
    record: dict[str, Any] = {
        "machine": machine,
        "failures": [line for outcome in outcomes.values() for line in outcome.failures],
        "parts": {
            name: {"seconds": round(outcome.seconds, 1), "numbers": outcome.numbers}
            for name, outcome in outcomes.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def write_tables(path: Path, text: str) -> None:
    """Everything printed so far, as the block that `docs/benchmarks.md` has a place for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{BEGIN}\n{text}\n{END}\n")


def write_docs(text: str, document: Path = DOCUMENT) -> None:
    """Put the tables between their markers in the document."""
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    found = document.read_text()
    document.write_text(block.sub(lambda _: f"{BEGIN}\n{text}\n{END}", found))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    names = list(PARTS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rehearse", action="store_true", help="everything small, on the CPU")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="of the runs")
    parser.add_argument("--patience", type=float, default=1.0, help="times the seconds of parts")
    parser.add_argument("--write-docs", action="store_true", help="tables into docs/benchmarks.md")
    parser.add_argument(
        "--record", type=Path, help="folder of gpu_check.json; OUTPUTS/benchmarks if absent"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the parts; returns the exit status."""
    options = parse(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        print("gpu-check: there is no CUDA device here, so there is nothing to check.")
        return 0
    device = torch.device("cpu") if options.rehearse else torch.device("cuda", 0)
    versions = Machine(device, rehearsal=options.rehearse).describe()
    path = (options.record or options.outputs / "benchmarks") / "gpu_check.json"
    outcomes: dict[str, Outcome] = {}
    text = ", ".join(f"{name} {value}" for name, value in versions.items()) + "\n"
    print(f"{BEGIN}\n{text}", flush=True)
    patience = float("inf") if options.rehearse else options.patience
    end = time.monotonic() + patience * WHOLE_SECONDS
    for name in (name for name in PARTS if name in options.parts):

        def record(outcome: Outcome, name: str = name) -> None:
            outcomes[name] = outcome
            write_record(path, versions, outcomes)

        deadline = min(end, time.monotonic() + patience * PARTS[name][0])
        machine = Machine(device, options.rehearse, deadline, record)
        needed = patience * PARTS[name][0] if name in RUNS else FEWEST_SECONDS
        if end - time.monotonic() < (0.0 if options.rehearse else needed):
            outcome = Outcome(f"{name}: no time left")
        else:
            outcome = run_part(name, machine, options.outputs)
        record(outcome)
        text += "\n" + outcome.markdown()
        print(outcome.markdown(), flush=True)
        write_tables(path.with_suffix(".md"), text)
    print(END)
    if options.write_docs:
        write_docs(text)
    failures = [line for outcome in outcomes.values() for line in outcome.failures]
    took = ", ".join(f"{name} {outcome.seconds:.0f} s" for name, outcome in outcomes.items())
    print(f"gpu-check: {len(failures)} failures; {took}; {path}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
