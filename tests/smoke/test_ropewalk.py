"""`ropewalk` from a user's folder with packages of its own, through a link to a checkout whose path has a space."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.smoke.command import ROOT, hostile_folder, rows, wait_for_steps


class User:
    """Somebody with a folder of their own, and a link to the launcher of a checkout elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = hostile_folder(folder / "my code")
        self.checkout = folder / "check out"
        for name in ("model", "data", "parallel", "train", "conf", "launch"):
            shutil.copytree(ROOT / name, self.checkout / name)  # with their bytecode
        shutil.copy(ROOT / "pyproject.toml", self.checkout)
        self.link = folder / "walk"
        self.link.symlink_to(self.checkout / "launch/ropewalk.py")

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        given = clean | {"OMP_NUM_THREADS": "1"} | variables  # an empty one is not set
        return subprocess.Popen(
            [sys.executable, self.link, *words],
            cwd=self.folder,
            env={key: value for key, value in given.items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, **variables: str) -> tuple[int, str, str]:
        """The exit status, standard output and standard error of a command."""
        process = self.start(*words, **variables)
        stdout, stderr = process.communicate(timeout=300)
        return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(tmp_path_factory.mktemp("user"))


def test_ranks_of_torchrun_import_the_checkout_and_stay_in_the_folder_of_the_start(
    user: User,
) -> None:
    options = ["--standalone", "--nproc-per-node", "2"]
    status, stdout, stderr = user.run(
        "torchrun", *options, "--", "--print", "experiment=quickstart", "run_name=a b"
    )
    assert (status, stderr) == (0, "")
    assert stdout.count("run_name: a b\n") == 1


def test_workers_of_prepare_import_the_checkout_and_read_relative_paths(
    user: User, small_corpus: Any
) -> None:
    shutil.copy(small_corpus.tokenizer, user.folder / "own.model")
    (user.folder / "texts").mkdir()
    (user.folder / "texts/one.txt").write_text("abc abd")
    words = [
        "--input",
        "texts",
        "--output",
        "out/web",
        "--tokenizer",
        "own.model",
        "--workers",
        "2",
    ]
    status, _, stderr = user.run("prepare", *words)
    assert status == 0, stderr
    assert (user.folder / "out/web.bin").is_file()


# Stands in for a rank: it saves at SIGINT, once both are there, or ends as it is told.
RANK = """#!/bin/bash
trap 'echo saved; exit 75' INT
touch "$READY.$RANK"
[[ $ENDS == INT ]] || { [[ $RANK == 1 ]] && eval "$ENDS"; }
while :; do sleep 0.05; done
"""


@pytest.fixture
def rank(tmp_path: Path) -> Path:
    path = tmp_path / "rank"
    path.write_text(RANK)
    path.chmod(0o755)
    return path


def test_ctrl_c_under_torchrun_waits_for_the_ranks_and_ends_with_their_status(
    user: User, rank: Path, tmp_path: Path
) -> None:
    words = ["torchrun", "--nproc-per-node", "2", "--max-restarts", "3", "--"]
    ready = {"READY": str(tmp_path / "ready"), "ENDS": "INT", "PYTHON_EXEC": str(rank)}
    with user.start(*words, **ready) as process:
        while len(list(tmp_path.glob("ready.*"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (75, "saved\nsaved\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "status", "line"),
    [
        ("exit 2", 2, ""),
        ("exit 75", 75, ""),
        ("exit 3", 3, "ropewalk torchrun: rank 1 ended with status 3\n"),
        (
            "kill -KILL $$",
            137,
            "ropewalk torchrun: rank 1 was ended by SIGKILL; most often the host's memory ran out\n",
        ),
    ],
)
def test_a_failed_rank_under_torchrun_is_one_line_and_its_status(
    user: User, rank: Path, tmp_path: Path, ends: str, status: int, line: str
) -> None:
    variables = {"READY": str(tmp_path / "ready"), "ENDS": ends, "PYTHON_EXEC": str(rank)}
    variables["OMP_NUM_THREADS"] = ""  # torch's log has five lines about that
    words = ["torchrun", "--nproc-per-node", "2", "--shutdown-timeout", "1", "--"]
    found = user.run(*words, **variables)
    assert (found[0], found[2]) == (status, line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--nproc-per-node 0", "--nproc-per-node=0: must be at least 1"),
        ("--nproc-per-node x", "Unsupported nproc_per_node value: x"),
        ("--no-python", "Don't use both the '--no-python' flag"),
    ],
)
def test_an_option_that_torchrun_cannot_take_is_one_line(user: User, words: str, line: str) -> None:
    status, stdout, stderr = user.run("torchrun", *words.split(), "--")
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith(f"ropewalk torchrun: {line}")


@pytest.mark.slow
def test_a_run_under_torchrun_is_stopped_by_ctrl_c_and_goes_on(
    user: User, small_run: Callable[..., list[str]]
) -> None:
    arguments = small_run(Path("outputs"), run_name="stopped")
    words = ["torchrun", "--standalone", "--nproc-per-node", "2", "--", *arguments]
    with user.start(*words, "schedule.stages.first.tokens=5120000") as process:
        wait_for_steps(user.folder / "outputs/stopped/metrics.jsonl", 3, process)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert "asked to stop; saved at step" in stdout
    assert "Traceback" not in stderr and "Signal" not in stderr
    done = len(rows(user.folder / "outputs", "stopped"))
    more = f"train.max_steps={done + 2}"
    status, _, stderr = user.run(*words, "schedule.stages.first.tokens=5120000", more)
    assert status == 0, stderr
    assert len(rows(user.folder / "outputs", "stopped")) == done + 2


@pytest.mark.slow
def test_ranks_of_the_launcher_of_deepspeed_train(
    user: User, small_run: Callable[..., list[str]]
) -> None:
    arguments = small_run(Path("outputs"), run_name='"it\'s one"')
    status, _, stderr = user.run("deepspeed", "--num_gpus", "2", "--", *arguments)
    assert status == 0, stderr
    assert len(rows(user.folder / "outputs", "it's one")) == 20


@pytest.mark.slow
def test_the_launcher_of_deepspeed_itself_starts_the_module(
    tmp_path: Path, small_run: Callable[..., list[str]]
) -> None:
    words = ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--module", "train"]
    done = subprocess.run(
        [sys.executable, *words, *small_run(tmp_path, run_name="plain")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(tmp_path, "plain")) == 20
