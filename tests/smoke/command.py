"""The real command under torchrun, from a test: run to its end, or killed after a step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def command(ranks: int, arguments: list[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, *launcher, "-m", "train", *arguments]


def run(ranks: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(ranks, arguments),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def rows(outputs: Path, name: str, kind: str = "metrics") -> list[dict[str, Any]]:
    path = outputs / name / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def kill_after(outputs: Path, name: str, step: int, ranks: int, arguments: list[str]) -> None:
    """Start, wait until `step` is in the metrics, and kill -9 the launcher and all its ranks."""
    metrics = outputs / name / "metrics.jsonl"
    process = subprocess.Popen(
        command(ranks, arguments),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not metrics.exists() or metrics.read_text().count("\n") < step:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for found in subprocess.run(
        ["pgrep", "-f", f"run_name={name} "], capture_output=True, text=True
    ).stdout.split():
        os.kill(int(found), signal.SIGKILL)
    process.wait()


def when_steps(
    metrics: Path, steps: int, process: subprocess.Popen[str], *, pid_of_rank: int
) -> int:
    """Wait until so many steps are in the metrics; returns the process of a rank that `process` launched."""
    deadline = time.monotonic() + 240
    while not metrics.exists() or metrics.read_text().count("\n") < steps:
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for pid in children(process.pid):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={pid_of_rank}".encode() in environment:
            return pid
    raise AssertionError(f"no process of rank {pid_of_rank}")


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]
