"""Everything that only a GPU can prove, in a few minutes: `make gpu-check`.

    PYTHONPATH=. python tests/gpu/gpu_check.py [--parts NAME ...] [--rehearse]

Kernels against the dense oracle, ring attention on virtual ranks, the whole model against float32,
activation memory, training runs with a kill and a resume, and throughput tables. The tables are printed
as Markdown; every number goes to `outputs/benchmarks/gpu_check.json`, again after each part. The exit status is 1 when
something fails, 0 when all is well or there is no GPU. `--rehearse` tries all of it, small, on a CPU.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_accuracy import check_attention
from attention_throughput import check_throughput
from machine import Machine
from model_accuracy import check_memory, check_model
from outcome import Outcome
from ring_accuracy import check_ring, check_waiting
from ring_throughput import check_ring_throughput
from segment_accuracy import check_segments
from training_run import check_deterministic, check_training, check_variants

Check = Callable[[], Outcome]
BEGIN, END = "<!-- gpu_check: begin -->", "<!-- gpu_check: end -->"


def parts(machine: Machine, outputs: Path) -> dict[str, Check]:
    """What is checked, in this order: the cheap and telling first."""
    return {
        "attention": lambda: check_attention(machine),
        "segments": lambda: check_segments(machine),
        "ring": lambda: check_ring(machine),
        "waiting": lambda: check_waiting(machine),
        "model": lambda: check_model(machine),
        "memory": lambda: check_memory(machine),
        "training": lambda: check_training(machine, outputs),
        "deterministic": lambda: check_deterministic(machine, outputs),
        "variants": lambda: check_variants(machine, outputs),
        "ring_throughput": lambda: check_ring_throughput(machine),
        "throughput": lambda: check_throughput(machine),
    }


def run_part(name: str, check: Check, machine: Machine) -> Outcome:
    """One part; what it throws is its failure and does not cost the other parts."""
    started = time.perf_counter()
    try:
        machine.forget()
        outcome = check()
    except Exception:  # whatever it is, the machine is borrowed: go on and tell it at the end
        sys.stderr.write(traceback.format_exc())
        last = traceback.format_exc().strip().splitlines()[-1]
        outcome = Outcome(f"{name}: did not finish", failures=[f"{name}: {last}"])
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


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    names = list(parts(Machine(torch.device("cpu"), rehearsal=True), Path()))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--rehearse", action="store_true", help="everything small, on the CPU")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="of the runs")
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
    machine = Machine(device, rehearsal=options.rehearse)
    versions = machine.describe()
    path = (options.record or options.outputs / "benchmarks") / "gpu_check.json"
    outcomes: dict[str, Outcome] = {}
    described = ", ".join(f"{name} {value}" for name, value in versions.items())
    print(f"{BEGIN}\n{described}\n", flush=True)
    for name, check in parts(machine, options.outputs).items():
        if name in options.parts:
            outcomes[name] = run_part(name, check, machine)
            print(outcomes[name].markdown(), flush=True)
            write_record(path, versions, outcomes)
    print(END)
    failures = [line for outcome in outcomes.values() for line in outcome.failures]
    took = ", ".join(f"{name} {outcome.seconds:.0f} s" for name, outcome in outcomes.items())
    print(f"gpu-check: {len(failures)} failures; {took}; {path}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
