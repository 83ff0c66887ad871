"""launch/slurm.sh on a real Slurm of two virtual nodes: the limit, a power cut, preemption, a chain."""

import sys
from pathlib import Path

import pytest

from tests.smoke.cluster import Cluster
from tests.smoke.command import ROOT, hostile_folder, rows
from tests.smoke.submitted import STEPS, Straight, Submitted, same

pytestmark = pytest.mark.cluster

# What a shell, sbatch or a file name pattern could take apart.
ODD_NAME = 'it\'s {one,two} $HOME "x" 100 %j'

# State, exit code, requeues.
COMPLETED, CANCELLED = ("COMPLETED", "0:0", "0"), ("CANCELLED", "0:0", "0")


def test_a_job_outlives_its_time_limit_and_a_power_cut(
    cluster: Cluster,
    straight: Straight,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, outputs, arguments = straight
    # Every start of the job runs where it was submitted, and imports nothing from there.
    monkeypatch.chdir(hostile_folder(outputs / "my code"))
    relative = [
        word.replace(f"paths.outputs={outputs}", "paths.outputs=..") for word in arguments(ODD_NAME)
    ]
    assert "paths.outputs=.." in relative
    job = Submitted(cluster, outputs / ODD_NAME, relative)
    job.wait_for_step(10)
    # What Slurm sends STOP_SECONDS before the limit.
    cluster.must("login", "scancel", "--batch", "--signal=USR1", job.number)
    job.wait(lambda: "requeued" in job.log, "the first requeue")
    stopped_at = len(rows(outputs, ODD_NAME))
    assert 10 <= stopped_at < STEPS - 40, "stopped when it was asked to"
    assert f"saved at step {stopped_at}," in job.log
    job.wait_for_step(stopped_at + 20)
    cluster.power_cut("n2")
    cluster.boot("n2")
    assert job.ended() == [("COMPLETED", "0:0", "2")], job.log
    assert job.log.count("2 ranks on n[1-2]") == 3
    assert f"step_{stopped_at:08d}: step {stopped_at}," in job.log
    same(expected, rows(outputs, ODD_NAME))
    ids = job.wandb_ids()
    assert len(ids) == 3 and len(set(ids)) == 1


def test_a_preempted_link_of_a_chain_is_followed_by_the_next_and_a_complete_run_cancels_the_rest(
    cluster: Cluster, straight: Straight
) -> None:
    expected, outputs, arguments = straight
    chain = Submitted(
        cluster, outputs / "chain", arguments("chain"), ["--chain", "3"], PARTITION="scavenge"
    )
    chain.wait_for_step(10)
    # Jobs of the other partition come first: SIGTERM to the step, W&B's processes included.
    words = ["--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=srun true"]
    cluster.must("login", "sbatch", "--partition=debug", *words)
    assert chain.ended() == [COMPLETED, COMPLETED, CANCELLED], chain.log
    assert "stopped and saved: the next link of the chain goes on" in chain.log
    same(expected, rows(outputs, "chain"))
    assert len(set(chain.wandb_ids())) == 1


# Stands in for `python -m train`: ends as the line of FOLDER/plan says that belongs to this start.
STAND_IN = """#!/bin/bash
[[ $3 != --folder ]] || { echo "$4"; exit; }
start=$((${SLURM_RESTART_COUNT:-0} + ${SLURM_ARRAY_TASK_ID:-1}))
read -r status checkpoint < <(sed -n "${start}p" "$3/plan")
[[ -z $checkpoint ]] || { mkdir -p "$3/checkpoints"; echo "$checkpoint" >"$3/checkpoints/latest"; }
exit "$status"
"""


def test_what_a_job_makes_of_the_statuses_of_its_ranks(cluster: Cluster, tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    # Options; how its starts end, and a checkpoint if one leaves it; what Slurm says in the end.
    cases: list[tuple[list[str], list[str], list[tuple[str, str, str]]]] = [
        ([], ["0"], [COMPLETED]),
        ([], ["2"], [("FAILED", "2:0", "0")]),
        ([], ["75", "0"], [("COMPLETED", "0:0", "1")]),
        ([], ["143", "0"], [("COMPLETED", "0:0", "1")]),
        ([], ["1"], [("FAILED", "1:0", "0")]),
        ([], ["1 step_1", "1"], [("FAILED", "1:0", "1")]),
        ([], ["137 step_1", "0"], [("COMPLETED", "0:0", "1")]),
        (["--chain", "3"], ["75", "1 step_1", "0"], [COMPLETED, ("FAILED", "1:0", "0"), COMPLETED]),
        (["--chain", "2"], ["75", "75"], [COMPLETED, ("FAILED", "75:0", "0")]),
        (["--chain", "3"], ["2"], [("FAILED", "2:0", "0"), CANCELLED]),
        (["--chain", "3"], ["0"], [COMPLETED, CANCELLED]),
    ]
    submitted = []
    for number, (options, plan, _) in enumerate(cases):
        folder = tmp_path / f"case_{number}"
        folder.mkdir()
        (folder / "plan").write_text("\n".join(plan) + "\n")
        options = ["--nodes", "1", *options]
        job = Submitted(cluster, folder, [str(folder)], options, PYTHON=str(stand_in))
        submitted.append(job)
    for job, (_, plan, states) in zip(submitted, cases, strict=True):
        assert job.ended() == states, f"{plan}\n{job.log}"


# Stands in for `python -m train`: says which rank it is, where, and which packages it would import.
SAYS = """
import os, sys
told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "MASTER_ADDR")]
print(*told, os.path.basename(os.getcwd()), *sys.argv[1:])
"""


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The launcher of a checkout whose training says what it is told; the current folder is a hostile one."""
    for folder in ("launch", "train"):
        (tmp_path / "check out" / folder).mkdir(parents=True)
    (tmp_path / "check out/train/__init__.py").touch()
    (tmp_path / "check out/train/__main__.py").write_text(SAYS)
    path = tmp_path / "check out/launch/ropewalk.py"
    path.write_text((ROOT / "launch/ropewalk.py").read_text())
    monkeypatch.chdir(hostile_folder(tmp_path / "mine"))
    return str(path)


def test_tasks_of_srun_are_ranks_and_one_that_is_shown_one_gpu_takes_number_0(
    cluster: Cluster, launcher: str
) -> None:
    words = [sys.executable, launcher, "train", "a=b c"]
    for option, ranks in (
        ("--gpus-per-node=2", ["0 4 0 0,1", "1 4 1 0,1", "2 4 0 0,1", "3 4 1 0,1"]),
        ("--gpus-per-task=1", ["0 4 0 0", "1 4 0 1", "2 4 0 0", "3 4 0 1"]),
    ):
        said = cluster.must("login", "srun", "--nodes=2", "--ntasks-per-node=2", option, *words)
        assert sorted(said.splitlines()) == [f"{rank} n1 mine a=b c" for rank in ranks]


def test_a_command_of_a_batch_script_alone_is_one_process_and_its_steps_are_ranks(
    cluster: Cluster, launcher: str, tmp_path: Path
) -> None:
    alone = f"{sys.executable} '{launcher}' train"
    job = ["--nodes=2", "--ntasks-per-node=1", "--wait", "--output=said"]
    cluster.must("login", "sbatch", *job, f"--wrap={alone}; srun {alone}")
    said = (tmp_path / "mine/said").read_text().splitlines()
    assert said[0] == "None None None None None mine"
    assert sorted(said[1:]) == ["0 2 0 None n1 mine", "1 2 0 None n1 mine"]


def test_a_run_of_srun_trains_as_the_same_ranks_of_torchrun(
    cluster: Cluster,
    straight: Straight,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, outputs, arguments = straight
    monkeypatch.chdir(hostile_folder(outputs / "of srun"))
    words = [sys.executable, str(ROOT / "launch/ropewalk.py"), "train", *arguments("srun")]
    # One thread a rank, as torchrun sets it: virtual nodes share the cores of this host.
    settings = ["env", "GLOO_SOCKET_IFNAME=eth0", "OMP_NUM_THREADS=1"]
    cluster.must("login", *settings, "srun", "--ntasks=2", "-N2", *words)
    same(expected, rows(outputs, "srun"))
