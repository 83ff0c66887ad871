"""Options of `python -m train`, and what people know from Hydra: it works, or one line says what to do instead."""

import subprocess
from pathlib import Path

import pytest
import yaml

from train import __main__
from train.configuration.completion import bash_completion

STAGE = "{tokens: 4096, sequence_length: 64, batch_tokens: 512, micro_batch_tokens: 128}"
# Command lines that are answered in one line, and a part of the line.
ANSWERED = {
    "-c hydra": "--cfg hydra: only --cfg job has a meaning here; it is --print",
    "-cp conf": "-cp: is Hydra's and has no meaning here; files of your own are found with --config-dir DIR",
    "--config-path=conf": "found with --config-dir DIR",
    "-cn other": "choose experiment=NAME or experiment=FILE.yaml",
    "-m": "one command is one run; write a loop in the shell",
    "--multirun": "one command is one run; write a loop in the shell",
    "-r": "a command without any option runs",
    "-p model": "--print shows every key",
    "--info all": "--check finds mistakes",
    "--hydra-help": "--help lists the options",
    "--resolve": "--print, which always shows resolved values",
    "--experimental-rerun=a.pickle": "experiment=outputs/RUN_NAME/config.yaml run_name=NEW",
    "-sc install=zsh": "there is install=bash",
    "-cd": "--config-dir: names no folder",
    "-cd nowhere": f"--config-dir {Path.cwd()}/nowhere: no such folder",
    "-cd /proc/self": "holds none of the folders data, experiment, model, recipe, schedule",
    "--config-dir=. --config-dir=.": "is given twice",
    "--chekc": "--chekc: unknown; did you mean --check?",
    "--check=yes": "--check=yes: takes no value",
    "hydra.run.dir=there": "Hydra's own settings have no effect here; a run writes into paths.outputs",
    "hydra/launcher=submitit_slurm": "start ranks with torchrun or launch/slurm.sh",
    "+hydra.sweep.dir=x": "one command is one run",
    "hydra.searchpath=[file:///x]": "give --config-dir DIR",
    "hydra.job.name=x": "run_name=NAME",
    "seed=1,2": "seed=1,2: give one value",
    "experiment=quickstart,quickstart_4d": "one command is one run; write experiment=CHOICE, and a loop",
    "seed=choice(1,2)": "give one value",
    "seed@model=1": "only a group has a package",
    "model@train=tiny": "a group has one choice and no package; write model=CHOICE",
    "~model": "write model=CHOICE",
    "run_name=${oc.env:HOME}": "only another key can be referred to",
    "schedule=nowhere/own.yaml": "schedule=nowhere/own.yaml: no such file",
    "schedule=mine": "schedule=mine: no such schedule; there are drope_small",
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = __main__.main(list(words))
    written = capsys.readouterr()
    return status, written.out, written.err


@pytest.mark.parametrize(("command", "says"), ANSWERED.items(), ids=list(ANSWERED))
def test_one_line_says_what_to_do_instead(
    command: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, errors = run(capsys, *command.split(" "))
    assert (status, out) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("train: error: ")
    assert says in line


def test_cfg_job_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "--print")
    assert printed[0] == 0
    assert yaml.safe_load(printed[1])["run_name"] == "run"
    assert run(capsys, "--cfg", "job") == run(capsys, "-c=job", "--resolve") == printed


@pytest.mark.parametrize(
    "words",
    [["+experiment=quickstart"], ["++experiment=quickstart"], ["++run_name=quickstart"],
     ["run_name=quickstart", f"++schedule.stages.more={STAGE}"], ["--", "run_name=quickstart"]],
)  # fmt: skip
def test_hydras_signs_before_a_key_do_what_they_do_there(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, "--folder", *words)
    assert (status, out) == (0, f"{Path.cwd()}/outputs/quickstart\n")


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--version")
    assert status == 0
    assert out.startswith("ropewalk 0.")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python -m train experiment=quickstart_", "quickstart_4d"),
        ("torchrun --nproc-per-node 2 -m train train.precision=b", "bfloat16"),
        ("ropewalk train --pri", "--print"),
        ("ropewalk train schedule=mi", "mine"),
        ("ropewalk torchrun --nproc-per-node 2 -- train.max_st", "train.max_steps="),
        ("python -m train data.heldout=own/sch", "own/schedule"),
        ("python -m http.server exp", ""),
    ],
)
def test_bash_completes_groups_keys_and_files(
    line: str, offered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    (own / "schedule").mkdir(parents=True)
    (own / "schedule/mine.yaml").touch()
    status, script, _ = run(capsys, "--config-dir", str(own), "--shell-completion", "install=bash")
    assert (status, script) == (0, bash_completion(own))
    ask = 'COMP_LINE=$1 COMP_POINT=${#1}; _ropewalk_complete 2>/dev/null; echo "${COMPREPLY[*]}"'
    answer = subprocess.run(
        ["bash", "-c", f"{script}\n{ask}", "bash", line],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.stdout.strip() == offered, answer.stderr
