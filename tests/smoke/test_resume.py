"""The real command: killed, stopped and hung, and started again, alone or with other ranks.

Under torchrun: the undisturbed run, a kill and a stop signal. The other starts are forked ranks (`tests/launched.py`).
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import launched
from tests.smoke import command
from tests.smoke.command import ROOT, rows


@pytest.fixture(scope="module")
def straight(
    small_corpus: Any, small_run: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A run that nothing disturbed: 40 steps on two ranks."""
    outputs = tmp_path_factory.mktemp("outputs")

    def arguments(name: str, **changes: str) -> list[str]:
        return small_run(
            outputs,
            run_name=name,
            **{
                "schedule.stages.first.tokens": "10240",
                "schedule.stages.second.tokens": "10240",
                "schedule.stages.first.micro_batch_tokens": "256",
                "schedule.stages.second.micro_batch_tokens": "256",
                "checkpoint.every_steps": "7",
                "checkpoint.keep": "9",
            }
            | changes,
        )

    finished = command.run(2, arguments("straight"))
    assert finished.returncode == 0, finished.stderr
    assert "is complete: 40 steps" in finished.stdout
    return outputs, arguments


def test_killed_and_resumed_run_is_bit_identical(straight: tuple[Path, Any]) -> None:
    outputs, arguments = straight
    command.kill_after(outputs, "killed", 17, 2, arguments("killed"))
    finished = launched.run(2, arguments("killed"))
    assert finished.returncode == 0, finished.stderr
    assert "going on from" in finished.stderr
    expected, found = rows(outputs, "straight"), rows(outputs, "killed")
    assert [row["step"] for row in found] == list(range(1, 41))
    for key in ("loss", "gradient_norm", "tokens_seen", "valid_tokens", "learning_rate"):
        assert [row[key] for row in found] == [row[key] for row in expected], key


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 1), (2, 3)])
def test_resume_under_another_layout_follows_the_same_curve(
    straight: tuple[Path, Any], ranks: int, zero_stage: int
) -> None:
    outputs, arguments = straight
    name = f"other_{ranks}_{zero_stage}"
    changes = {
        "checkpoint.resume": str(outputs / "straight/checkpoints/step_00000014"),
        "parallel.zero_stage": str(zero_stage),
        "train.max_steps": "34",
    }
    finished = launched.run(ranks, arguments(name, **changes))
    assert finished.returncode == 0, finished.stderr
    expected, found = rows(outputs, "straight")[14:34], rows(outputs, name)
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for key in ("tokens_seen", "valid_tokens"):
        assert [row[key] for row in found] == [row[key] for row in expected]
    for key in ("loss", "gradient_norm"):
        # 20 steps of float32 whose sums are ordered differently.
        assert [row[key] for row in found] == pytest.approx(
            [row[key] for row in expected], rel=1e-5
        )


def test_a_stop_signal_saves_and_the_same_command_goes_on(straight: tuple[Path, Any]) -> None:
    outputs, arguments = straight
    own = arguments("stopped", **{"checkpoint.every_steps": "0"})
    metrics = outputs / "stopped/metrics.jsonl"
    with command.start(2, own) as process:
        command.wait_for_steps(metrics, 3, process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate()
    assert "asked to stop; saved at step" in said
    stopped_at = len(metrics.read_text().splitlines())
    assert stopped_at < 40
    finished = launched.run(2, own)
    assert finished.returncode == 0, finished.stderr
    assert f"step {stopped_at}," in finished.stderr
    expected, found = rows(outputs, "straight"), rows(outputs, "stopped")
    assert [row["loss"] for row in found] == [row["loss"] for row in expected]


def test_a_stopped_rank_is_named_the_run_ends_and_goes_on(straight: tuple[Path, Any]) -> None:
    """SIGSTOP: to its peer the rank hangs. That a job ends within twice the limit is measured by `make soak`."""
    outputs, arguments = straight
    own = arguments("hung", **{"parallel.timeout_seconds": "10"})
    metrics = outputs / "hung/metrics.jsonl"
    with launched.Launch(2, own) as launch:
        launch.until_steps(metrics, 12)
        victim = launch.pid(1)
        os.kill(victim, signal.SIGSTOP)
        ended = launch.finish_without(1)
    assert ended.returncode != 0
    assert ended.stderr.count("train: rank 0: nothing moves:") == 1
    error = (outputs / "hung/error.txt").read_text()
    assert re.search(r"rank 0 on \S+ has waited \d+ s in \w+ on axis data \(ranks 0-1\)", error)
    assert re.search(rf"no sign of life from rank 1 on \S+ \(process {victim}\)", error)
    reached = len(metrics.read_text().splitlines())
    finished = launched.run(2, own)
    assert finished.returncode == 0, finished.stderr
    resumed = int(re.search(r"going on from .*: step (\d+),", finished.stderr).group(1))  # type: ignore[union-attr]
    assert reached - resumed <= 7, "more than checkpoint.every_steps steps lost"
    assert [row["loss"] for row in rows(outputs, "hung")] == [
        row["loss"] for row in rows(outputs, "straight")
    ]


def test_one_process_needs_no_launcher(small_run: Any, tmp_path: Path) -> None:
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launched}
    arguments = small_run(tmp_path, **{"train.max_steps": "3"})
    finished = subprocess.run(
        [sys.executable, "-m", "train", *arguments],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert [row["step"] for row in rows(tmp_path, "small")] == [1, 2, 3]
    assert "Complete. Written" in (tmp_path / "small/report.html").read_text()


def test_finished_run_ends_at_once(straight: tuple[Path, Any]) -> None:
    outputs, arguments = straight
    before = (outputs / "straight/metrics.jsonl").read_text()
    again = launched.run(2, arguments("straight"))
    assert again.returncode == 0, again.stderr
    assert (outputs / "straight/metrics.jsonl").read_text() == before


def test_checkpoint_of_another_model_or_schedule_is_refused(straight: tuple[Path, Any]) -> None:
    _, arguments = straight
    changes = {"model.window": "8", "schedule.stages.second.rope_base": "20000"}
    refused = launched.run(1, arguments("straight", **changes))
    assert refused.returncode != 0
    assert "model.window=8: the checkpoint's model has 16" in refused.stderr
    assert "rope_base: this schedule has {'window': 20000.0}" in refused.stderr
    assert refused.stderr.count("train: 2 mistakes:") == 1
