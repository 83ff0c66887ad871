"""A run on a disk that is really full: it goes on, nothing is lost, and it says so; or it ends in one line."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train import loop
from train.checkpointing.folder import complete
from train.configuration.compose import compose_run
from train.job import run_job

Arguments = Callable[..., list[str]]
FULL_FROM, SAVES = 5, {"checkpoint.every_steps": "4", "checkpoint.keep": "9"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave not a byte."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            pass


def job(arguments: list[str], disk: Path, free_from: int) -> list[int]:
    """Exit statuses of a run on two ranks, whose disk is full from one step on to another."""

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> int:
        original = loop._advance

        def advance(run: Any, *given: Any) -> None:
            original(run, *given)
            if rank == 0 and run.state.step == FULL_FROM:
                run.checkpoints.wait()
                fill(disk)
            if rank == 0 and run.state.step == free_from:
                (disk / "filler").unlink(missing_ok=True)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_advance", advance)
            return run_job(config)

    return run_on_ranks(work, 2)


def rows(disk: Path, log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (disk / "small" / log).read_text().splitlines()]


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_only(
    small_run: Arguments, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job(small_run(small_disk, **SAVES), small_disk, free_from=11) == [0, 0]
    said = capfd.readouterr().err
    assert "metrics.jsonl cannot be written (No space left on device); its rows are kept" in said
    for step in (8, 10):
        assert f"warning: the checkpoint of step {step} could not be written: rank 0: " in said
    assert "Traceback" not in said
    metrics = rows(small_disk, "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, 21))
    assert [row["step"] for row in rows(small_disk, "evaluation.jsonl")] == [10, 20]
    assert metrics[-1]["checkpoint_failures"] == 2
    names = [path.name for path in complete(small_disk / "small" / "checkpoints")]
    assert names == [f"step_{step:08d}" for step in (20, 16, 12, 4)]
    assert not list(small_disk.glob("small/checkpoints/*.partial"))


def test_a_disk_that_stays_full_ends_the_run_in_one_line_and_the_same_command_goes_on(
    small_run: Arguments, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert job(small_run(small_disk, **SAVES), small_disk, free_from=99) == [1, 1]
    said = capfd.readouterr().err
    assert said.count("train: error: the checkpoint of step 20 could not be written: rank 0: ") == 1
    assert "Traceback" not in said
    assert [path.name for path in complete(small_disk / "small" / "checkpoints")] == [
        "step_00000004"
    ]
    (small_disk / "filler").unlink()
    assert job(small_run(small_disk, **SAVES), small_disk, free_from=FULL_FROM) == [0, 0]
    assert [row["step"] for row in rows(small_disk, "metrics.jsonl")] == list(range(1, 21))
