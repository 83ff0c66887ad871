"""The scripts of launch/ without a cluster: dry runs, mistakes, arguments that a shell could take apart."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.smoke.command import ROOT

LAUNCHERS = ("torchrun", "deepspeed", "slurm")
ODD = [
    "run_name=a b",
    "x={a:1,b:[2,3]}",
    "y='it''s'",
    'z="$HOME `id` \\ %n %j"',
    "~w",
    "+v=ü",
    "u=",
]
# Takes the place of python: says which folder the run has, and checks nothing.
STAND_IN = (
    '#!/bin/bash\n[[ $3 != --folder ]] || { echo "outputs/100% a b"; exit; }\nprintf "%s\\0" "$@"\n'
)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    path = tmp_path / "python"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


def launch(
    name: str, *words: str, cwd: Path = ROOT, **settings: str
) -> subprocess.CompletedProcess[str]:
    settings = {"PYTHON": sys.executable} | settings
    return subprocess.run(
        [str(ROOT / f"launch/{name}.sh"), *words],
        cwd=cwd,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_is_the_head_of_the_script(name: str) -> None:
    said = launch(name, "--help", PYTHON="/absent")
    assert said.returncode == 0
    assert f"launch/{name}.sh [OPTION ...] [--] [KEY=VALUE ...]" in said.stdout
    assert "set -euo" not in said.stdout


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        *((name, "--dryrun", "--dryrun: unknown option; --help lists them") for name in LAUNCHERS),
        ("torchrun", "--nodes 2", "--nodes 2: needs --head HOST, the node where they meet"),
        ("torchrun", "--ranks two", "--ranks two: needs a number from 1"),
        ("torchrun", "--restarts x", "--restarts x: needs a number from 0"),
        ("torchrun", "--nodes 2 --head", "--head: needs a value"),
        ("slurm", "--chain 0", "--chain 0: needs a number from 1"),
        ("slurm", "--chain", "--chain: needs a number from 1"),
        ("deepspeed", "--hostfile /absent", "--hostfile /absent: there is no such file; "),
    ],
)
def test_a_mistake_is_one_line(name: str, words: str, line: str) -> None:
    said = launch(name, *words.split())
    assert said.returncode == 2
    assert said.stderr.startswith(f"{name}.sh: {line}") and said.stderr.count("\n") == 1
    assert said.stdout == ""


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_missing_file_of_settings_is_named(name: str, tmp_path: Path) -> None:
    said = launch(name, CLUSTER="absent/my.env", cwd=tmp_path)
    assert said.returncode == 2
    assert f"CLUSTER={tmp_path}/absent/my.env: there is no such file" in said.stderr


def test_settings_without_ranks_or_python_are_refused() -> None:
    no_ranks, no_python = launch("slurm", GPUS_PER_NODE="0"), launch("slurm", PYTHON="/absent")
    no_number = launch("torchrun", MAX_RESTARTS="x")
    assert no_ranks.returncode == no_python.returncode == no_number.returncode == 2
    assert no_number.stderr == "torchrun.sh: MAX_RESTARTS=x: must be a whole number\n"
    assert "RANKS_PER_NODE=0: must be at least 1" in no_ranks.stderr
    assert "PYTHON=/absent: there is no such program" in no_python.stderr


def test_a_mistake_in_the_configuration_is_never_submitted() -> None:
    said = launch("slurm", "model.num_layer=4")
    assert said.returncode == 2
    assert "did you mean model.num_layers?" in said.stderr


def test_torchrun_hands_arguments_on_as_they_are_from_any_folder(
    stand_in: Path, tmp_path: Path
) -> None:
    said = launch("torchrun", "--ranks", "3", "--", *ODD, PYTHON=str(stand_in), cwd=tmp_path)
    words = said.stdout.split("\0")[:-1]
    assert words[:2] == [f"{ROOT}/launch/ropewalk.py", "torchrun"]
    assert words[words.index("--") + 1 :] == ODD
    assert {"--standalone", "--nproc-per-node=3"} <= set(words)
    dry = launch("torchrun", "--dry-run", "--ranks", "3", *ODD, PYTHON=str(stand_in))
    assert shlex.split(dry.stdout) == [str(stand_in), *words]


def test_several_nodes_meet_at_the_head(stand_in: Path) -> None:
    words = ["--nodes", "2", "--head", "gpu1", "--restarts", "0", "--dry-run"]
    said = launch("torchrun", *words, PYTHON=str(stand_in), MASTER_PORT="29999")
    assert {"--nnodes=2", "--rdzv-endpoint=gpu1:29999", "--max-restarts=0"} <= set(
        said.stdout.split()
    )


def test_slurm_submits_what_the_dry_run_prints(stand_in: Path, tmp_path: Path) -> None:
    settings = {
        "PYTHON": str(stand_in),
        "ACCOUNT": "me",
        "PARTITION": "gpu",
        "QOS": "high",
        "STOP_SECONDS": "200",
    }
    said = launch("slurm", "--dry-run", "--nodes", "4", *ODD, cwd=tmp_path, **settings)
    words = shlex.split(said.stdout)
    script = words.index(f"{ROOT}/launch/slurm.sbatch")
    settings_file = f"{ROOT}/launch/cluster.env"
    assert words[script + 1 :] == [str(ROOT), settings_file, "outputs/100% a b", *ODD]
    assert {
        f"--chdir={tmp_path}",
        "--account=me",
        "--partition=gpu",
        "--qos=high",
        "--nodes=4",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--signal=B:USR1@200",
        "--job-name=100% a b",
        "--output=outputs/100%% a b/slurm.log",
        "--requeue",
    } <= set(words[:script])
    chain = shlex.split(launch("slurm", "--dry-run", "--chain", "5", **settings).stdout)
    assert {"--array=1-5%1", "--no-requeue"} <= set(chain) and "--requeue" not in chain


def test_a_copy_of_the_settings_is_obeyed_and_the_environment_wins(
    stand_in: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "my.env"
    text = (
        (ROOT / "launch/cluster.env")
        .read_text()
        .replace("TIME_LIMIT-24:00:00", "TIME_LIMIT-8:00:00")
    )
    copy.write_text(text.replace("SBATCH_EXTRA=()", "SBATCH_EXTRA=(--exclusive '--comment=a b')"))
    settings = {"PYTHON": str(stand_in), "CLUSTER": "my.env", "NODES": "3"}
    words = shlex.split(launch("slurm", "--dry-run", cwd=tmp_path, **settings).stdout)
    assert {"--time=8:00:00", "--nodes=3", "--exclusive", "--comment=a b", str(copy)} <= set(words)


def test_ranks_on_other_nodes_get_the_words_as_they_were(stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# ours\n\n gpu1\tslots=2\ngpu2 slots=2\n")
    options = ["--hostfile", "hosts", "--dry-run"]
    said = launch("deepspeed", *options, *ODD, PYTHON=str(stand_in), cwd=tmp_path)
    words = shlex.split(said.stdout)
    assert f"DS_ENV_FILE={tmp_path}/outputs/100% a b/deepspeed.env" in words
    assert {"--master_addr=gpu1", f"--hostfile={tmp_path}/hosts", "--force_multi"} <= set(words)
    assert words[words.index("--") + 1 :] == ODD


def test_a_relative_interpreter_is_of_the_checkout(stand_in: Path, tmp_path: Path) -> None:
    relative = os.path.relpath(stand_in, ROOT)
    said = launch("torchrun", "--dry-run", PYTHON=relative, cwd=tmp_path)
    assert shlex.split(said.stdout)[0] == f"{ROOT}/{relative}"


def says_folder(path: Path, folder: str) -> str:
    """A stand-in of python that names `folder` as the run's."""
    path.write_text(f"#!/bin/bash\necho {folder}\n")
    path.chmod(0o755)
    return str(path)


def test_a_container_stands_around_the_ranks(tmp_path: Path) -> None:
    settings = {
        "PYTHON": says_folder(tmp_path / "python", f"{ROOT}/outputs/run"),
        "CONTAINER_IMAGE": "/images/r.sif",
        "CONTAINER_MOUNTS": "/data,/disk:/scratch,/tmp",
        "GPUS_PER_NODE": "2",
    }
    inside = ["/opt/ropewalk/.venv/bin/python", f"{ROOT}/launch/ropewalk.py", "train", *ODD]
    mounts = f"{ROOT}:{ROOT},/data:/data,/disk:/scratch,/tmp:/tmp"
    started = {
        "pyxis": [
            "--container-image=/images/r.sif",
            f"--container-mounts={mounts}",
            f"--container-workdir={ROOT}",
        ],
        "enroot": [f"{ROOT}/launch/enroot.sh", mounts, "/images/r.sif"],
        "apptainer": shlex.split(f"apptainer exec --nv --bind {mounts} --pwd {ROOT} /images/r.sif"),
    }
    for name, words in started.items():
        said = launch("slurm", "--dry-run", *ODD, CONTAINER=name, **settings)
        assert shlex.split(said.stdout.splitlines()[-1]) == ["srun", *words, *inside], said.stderr
    no_gpus = settings | {"GPUS_PER_NODE": "0", "RANKS_PER_NODE": "2"}
    assert "--nv" not in launch("slurm", "--dry-run", CONTAINER="apptainer", **no_gpus).stdout


def test_a_container_that_cannot_work_is_refused(tmp_path: Path) -> None:
    python = says_folder(tmp_path / "python", "/elsewhere/run")
    image = {"PYTHON": python, "CONTAINER_IMAGE": "/images/r.sif"}
    blank = tmp_path / "a b"
    blank.mkdir()
    for settings, cwd, line in (
        ({"CONTAINER": "docker"}, ROOT, "CONTAINER=docker: must be pyxis, enroot or apptainer"),
        (
            {"CONTAINER": "pyxis", "CONTAINER_IMAGE": ""},
            ROOT,
            "CONTAINER=pyxis: needs CONTAINER_IMAGE",
        ),
        ({"CONTAINER": "apptainer"}, ROOT, "/elsewhere/run: is not seen inside the container"),
        ({"CONTAINER": "enroot"}, blank, f"{blank}: a container knows no folders with a space"),
    ):
        said = launch("slurm", "--dry-run", cwd=cwd, **image | settings)
        assert said.returncode == 2 and said.stdout == ""
        assert said.stderr.startswith(f"slurm.sh: {line}") and said.stderr.count("\n") == 1
