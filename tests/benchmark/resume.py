"""The resume experiment at the quickstart's size: how far a resumed run's losses are from a straight one's.

    PYTHONPATH=.:tests python tests/benchmark/resume.py

A straight run of 40 steps on two ranks; the same killed with SIGKILL after step 25 and started again;
and 20 steps from the straight run's checkpoint of step 20 under other layouts.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUTPUT = Path("outputs/benchmarks/resume.json")
RUNS = Path("outputs/benchmarks/resume")
STEPS, SAVED, KILLED_AFTER = 40, 20, 25


def command(name: str, ranks: int, *more: str) -> list[str]:
    """The real command of one run."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    arguments = [
        "experiment=quickstart",
        f"run_name={name}",
        f"paths.outputs={RUNS}",
        "paths.prepared=outputs/prepared",
        "logging.wandb.mode=disabled",
        "evaluation.enabled=false",
        f"train.max_steps={STEPS}",
        "checkpoint.every_steps=10",
        "checkpoint.keep=9",
        # Four micro-batches a step, so that four ranks fit as well.
        "schedule.stages.short.micro_batch_tokens=1024",
        "schedule.stages.middle.micro_batch_tokens=2048",
        "schedule.stages.long.micro_batch_tokens=4096",
        *more,
    ]
    return [sys.executable, *launcher, "-m", "train", *arguments]


def run(name: str, ranks: int, *more: str) -> list[dict[str, Any]]:
    """Run to the end and return its metrics."""
    sys.stderr.write(f"  {name}\n")
    subprocess.run(command(name, ranks, *more), check=True, capture_output=True)
    lines = (RUNS / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def run_until_killed(name: str, ranks: int, *more: str) -> None:
    """Run, and kill launcher and ranks when the step is logged."""
    metrics = RUNS / name / "metrics.jsonl"
    process = subprocess.Popen(
        command(name, ranks, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not metrics.exists() or metrics.read_text().count("\n") < KILLED_AFTER:
        time.sleep(0.05)
    listed = subprocess.run(["pgrep", "-f", f"run_name={name} "], capture_output=True, text=True)
    for pid in listed.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    process.wait()


def largest(expected: list[dict[str, Any]], found: list[dict[str, Any]], key: str) -> float:
    """Largest relative difference over the steps both have."""
    pairs = zip(expected[-len(found) :], found, strict=True)
    return max(abs(a[key] - b[key]) / abs(a[key]) for a, b in pairs)


def main() -> None:
    """Run everything, print the table, write the file."""
    shutil.rmtree(RUNS, ignore_errors=True)
    record: list[dict[str, Any]] = []
    for precision in ("float32", "bfloat16"):
        same = f"train.precision={precision}"
        straight = run(f"straight_{precision}", 2, same)
        run_until_killed(f"killed_{precision}", 2, same)
        found = run(f"killed_{precision}", 2, same)
        record.append(row(f"{precision}, killed, 2 ranks ZeRO-1 again", straight, found))
        if precision == "bfloat16":
            continue
        for ranks, zero_stage in ((1, 1), (2, 3), (4, 2)):
            saved = f"checkpoint.resume={RUNS}/straight_{precision}/checkpoints/step_{SAVED:08d}"
            name = f"other_{ranks}_{zero_stage}"
            found = run(name, ranks, same, saved, f"parallel.zero_stage={zero_stage}")
            record.append(
                row(f"{precision}, step 20 -> {ranks} ranks ZeRO-{zero_stage}", straight, found)
            )
    write = sys.stdout.write
    write(f"{'resumed run':<44}{'steps':>7}{'loss':>12}{'grad. norm':>12}\n")
    for entry in record:
        write(
            f"{entry['run']:<44}{entry['steps']:>7}{entry['loss']:>12.1e}{entry['gradient_norm']:>12.1e}\n"
        )
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(RUNS)


def row(name: str, expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Largest relative differences of one resumed run."""
    steps = [entry["step"] for entry in found]
    assert steps == sorted(set(steps)), "each step stands once"
    keys = ("loss", "gradient_norm")
    return {"run": name, "steps": len(found), **{k: largest(expected, found, k) for k in keys}}


if __name__ == "__main__":
    main()
