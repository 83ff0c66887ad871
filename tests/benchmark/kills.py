"""A run killed again and again at random moments, half-written checkpoints included, against a straight one.

    PYTHONPATH=. python tests/benchmark/kills.py [SEED]

Two ranks, a checkpoint every two steps; SIGKILL to launcher and ranks up to 1.2 s after the first new
step of each life. At the end every row of metrics.jsonl and evaluation.jsonl must be the straight run's.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUTPUT = Path("outputs/benchmarks/kills.json")
RUNS = Path("outputs/benchmarks/kills")
KILLS = 14
WITHOUT_CLOCKS = ("step", "tokens_seen", "valid_tokens", "loss", "gradient_norm", "learning_rate")


def command(name: str) -> list[str]:
    """The real command of one life."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [
        "schedule=small",
        "schedule.stages.first.tokens=40960",
        "schedule.stages.second.tokens=40960",
        "model.hidden_size=32",
        "model.num_heads=2",
        "model.num_kv_heads=1",
        f"paths.outputs={RUNS}",
        "paths.prepared=outputs/prepared",
        "logging.wandb.mode=disabled",
        "checkpoint.every_steps=2",
        "evaluation.max_tokens=2000",
        f"run_name={name}",
    ]
    return [sys.executable, *launcher, "-m", "train", *arguments]


def count_rows(path: Path) -> int:
    """Lines of a log that may not be there yet."""
    return path.read_text().count("\n") if path.exists() else 0


def live_until_killed(draw: random.Random) -> bool | None:
    """One life; whether the kill fell into the writing of a checkpoint, or None if the run ended."""
    metrics = RUNS / "killed/metrics.jsonl"
    before = count_rows(metrics)
    process = subprocess.Popen(
        command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while count_rows(metrics) <= before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0.0, 1.2))
    if process.poll() is not None:
        return None
    found = subprocess.run(["pgrep", "-f", "run_name=killed$"], capture_output=True, text=True)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    process.wait()
    return bool(list((RUNS / "killed/checkpoints").glob("*.partial")))


def rows(name: str, log: str) -> list[dict[str, Any]]:
    """Rows of a log, without what a clock says."""
    found = [json.loads(line) for line in (RUNS / name / log).read_text().splitlines()]
    if log == "evaluation.jsonl":
        return found
    return [{key: row[key] for key in WITHOUT_CLOCKS} for row in found]


def main() -> None:
    """Run, kill, compare."""
    shutil.rmtree(RUNS, ignore_errors=True)
    draw = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    subprocess.run(command("straight"), check=True, capture_output=True)
    kills: list[bool] = []
    while len(kills) < KILLS and (kill := live_until_killed(draw)) is not None:
        kills.append(kill)
        sys.stderr.write(f"  killed {len(kills)} times\n")
    subprocess.run(command("killed"), check=True, capture_output=True)
    record = {
        "kills": len(kills),
        "while_a_checkpoint_was_written": sum(kills),
        "steps": len(rows("straight", "metrics.jsonl")),
        "metrics_equal": rows("straight", "metrics.jsonl") == rows("killed", "metrics.jsonl"),
        "evaluations_equal": rows("straight", "evaluation.jsonl")
        == rows("killed", "evaluation.jsonl"),
    }
    for name, value in record.items():
        sys.stdout.write(f"{name:<34}{value}\n")
    OUTPUT.write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(RUNS)


if __name__ == "__main__":
    main()
