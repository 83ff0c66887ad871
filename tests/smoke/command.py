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


def hostile_folder(path: Path) -> Path:
    """A user's own folder at `path`: its data/, train/ and model.py raise when they are imported."""
    for name in ("data/__init__.py", "train/__init__.py", "model.py", "parallel.py"):
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"raise RuntimeError('{name} of the user was imported')\n")
    return path


def command(ranks: int, arguments: list[str]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, *launcher, "-m", "train", *arguments]


def start(
    ranks: int, arguments: list[str], *, stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """The command under way. What it says on standard error is thrown away."""
    return subprocess.Popen(
        command(ranks, arguments),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(ranks: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The command from its start to its end."""
    return subprocess.run(
        command(ranks, arguments),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def rows(outputs: Path, name: str, kind: str = "metrics") -> list[dict[str, Any]]:
    path = outputs / name / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def kill_after(outputs: Path, name: str, step: int, ranks: int, arguments: list[str]) -> None:
    """Start, wait until `step` is in the metrics, and kill -9 the launcher and all its ranks."""
    with start(ranks, arguments, stdout=subprocess.DEVNULL) as process:
        wait_for_steps(outputs / name / "metrics.jsonl", step, process)
        # The launcher first: it must not start the ranks again, nor end them itself.
        started = [process.pid, *children(process.pid)]
        for pid in started:
            os.kill(pid, signal.SIGKILL)


def wait_for_steps(metrics: Path, steps: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many steps are in the metrics.

    Raises:
        AssertionError: `process` ended before.
    """
    while not metrics.exists() or metrics.read_text().count("\n") < steps:
        assert process.poll() is None, "ended too early"
        time.sleep(0.01)


def process_of_rank(rank: int, launcher: subprocess.Popen[str]) -> int:
    """The process of a rank that `launcher` started."""
    for pid in children(launcher.pid):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return pid
    raise AssertionError(f"no process of rank {rank}")


def children(pid: int) -> list[int]:
    """Processes that `pid` started and that still run."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]
