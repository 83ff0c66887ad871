"""launch/ropewalk.py: what it starts, with which environment, and one line for everything else."""

import ast
import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """A file of launch/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"launch_{name}", ROOT / f"launch/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ropewalk, install = load("ropewalk"), load("install")


class Started(Exception):
    """A process would have been replaced by this program."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.words, self.environment = words, environment


@pytest.fixture(autouse=True, scope="module")
def stay() -> Iterator[None]:
    """No test replaces its own process."""

    def execve(_program: str, words: list[str], environment: dict[str, str]) -> None:
        raise Started(words, environment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ropewalk.os, "execve", execve)
        patch.setattr(ropewalk.signal, "signal", lambda *_: None)
        patch.setattr(ropewalk.signal, "pthread_sigmask", lambda *_: None)
        yield


def started(*words: str) -> Started:
    with pytest.raises(Started) as found:
        ropewalk.answer(list(words))
    return found.value


def refused(*words: str) -> str:
    with pytest.raises(ropewalk.Refused) as found:
        ropewalk.answer(list(words))
    return str(found.value)


@pytest.mark.parametrize("name", ropewalk.COMMANDS)
def test_every_command_is_a_module_of_this_checkout_and_has_a_line_of_help(name: str) -> None:
    command = ropewalk.COMMANDS[name]
    path = ROOT / command.module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    assert importlib.util.find_spec(command.needs)
    assert f"  {name:<10} {command.sentence}\n" in ropewalk.help_text()
    assert started(name, "a=b", "--help").words == [
        sys.executable, "-m", command.module, "a=b", "--help"
    ]  # fmt: skip


def test_every_module_that_python_m_starts_is_a_command() -> None:
    modules = {command.module for command in ropewalk.COMMANDS.values()}
    for path in (path for folder in ("train", "data") for path in (ROOT / folder).rglob("*.py")):
        if '\nif __name__ == "__main__":' in path.read_text() and path.stem != "worker":
            parts = path.relative_to(ROOT).with_suffix("").parts
            assert ".".join(part for part in parts if part != "__main__") in modules


def test_the_checkout_comes_first_on_the_path_and_the_user_s_own_stays() -> None:
    made = ropewalk.environment_of_checkout({"PYTHONPATH": f"/a:{ROOT}::/b", "HOME": "/h"})
    assert made == {"PYTHONPATH": f"{ROOT}:/a:/b", "PYTHONSAFEPATH": "1", "HOME": "/h"}
    assert ropewalk.environment_of_checkout({})["PYTHONPATH"] == str(ROOT)


OPTIONS = "--nproc-per-node 2"


@pytest.mark.parametrize(
    "words", [f"{OPTIONS} --", f"{OPTIONS} -m train", f"{OPTIONS} --module train --"]
)
def test_options_of_torchrun_end_at_two_dashes_or_at_the_module(words: str) -> None:
    found = started("torchrun", *words.split(), "a=b", "--", "-m").words
    agent = [sys.executable, str(ROOT / "launch/agent.py"), "--nproc-per-node", "2"]
    assert found == [*agent, "--module", "train", "a=b", "--", "-m"]


def test_deepspeed_starts_this_launcher_on_every_rank() -> None:
    found = started("deepspeed", "--num_gpus", "2", "--", "a=b c")
    runner, rank = found.words[:-4], found.words[-4:]
    assert runner[1:3] == ["-m", "deepspeed.launcher.runner"]
    assert runner[3:] == ["--num_gpus", "2", "--no_local_rank", "--no_python"]
    assert rank[:3] == [sys.executable, str(ROOT / "launch/ropewalk.py"), "--words"]
    assert started("--words", rank[3]).words[1:] == ["-m", "train", "a=b c"]
    assert started("deepspeed", "--", "a=1").words[-2:] == ["train", "a=1"]


def test_on_other_nodes_a_folder_that_its_shell_would_take_apart_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "a b"
    odd.mkdir()
    monkeypatch.chdir(odd)
    for options in ("-H hosts", "--hostfile=hosts", "--force_multi"):
        assert "a b" in refused("deepspeed", *options.split(), "--")
    started("deepspeed", "--hostfile=/dev/null", "--")
    odd.rmdir()
    assert "does not exist any more" in refused("deepspeed", "--force_multi", "--")


def test_only_the_standard_library_is_imported_and_little_of_it() -> None:
    tree = ast.parse((ROOT / "launch/ropewalk.py").read_text())
    names = {name for node in tree.body for name in imported(node)}
    assert names == {"__future__", "contextlib", "os", "pathlib", "re", "signal", "sys", "typing"}


def imported(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [str(node.module)]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "needs a command: train, prepare, "),
        ("trian", "trian: no such command; did you mean train?"),
        ("data.prepare --input x", "data.prepare: no such command; did you mean prepare?"),
        ("train.export_huggingface", "did you mean export?"),
        ("experiment=quickstart", "no command; ropewalk train experiment=quickstart trains"),
        ("--nproc-per-node=2 train", "--nproc-per-node=2: no such option; write ropewalk COMMAND"),
        ("srun train", "srun: put srun in front: srun --ntasks N ropewalk train"),
        ("torchrun --nproc-per-node 2 a=b", "torchrun: write -- before KEY=VALUE"),
        ("deepspeed a=b", "deepspeed: write -- before KEY=VALUE"),
        ("--words zz", "--words: is followed by the hexadecimal digits"),
    ],
)
def test_a_mistake_names_the_way_out(words: str, line: str) -> None:
    assert line in refused(*words.split())


# Whatever bytes a shell may hand to a program.
ANY = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.binary().map(lambda given: os.fsdecode(given.replace(b"\0", b""))),
)
ODD = st.one_of(
    ANY,
    st.sampled_from([*ropewalk.COMMANDS, *ropewalk.LAUNCHERS]),
    st.sampled_from(["--", "-m", "--help", "-h", "--version", "", "a=b", "--words", "train"]),
)


@given(st.lists(ODD, max_size=6))
def test_any_words_start_a_command_of_this_checkout_or_are_answered(words: list[str]) -> None:
    said: list[tuple[str, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ropewalk, "say", lambda text, stream=1: said.append((text, stream)) or 0)
        try:
            status = ropewalk.main(words)
        except Started as program:
            assert program.words[0] == sys.executable
            assert program.environment["PYTHONPATH"].split(":")[0] == str(ROOT)
            assert program.environment["PYTHONSAFEPATH"] == "1"
            return
    ((text, stream),) = said
    assert text.endswith("\n")
    if status == 0:
        assert stream == 1 and text.isprintable() == ("\n" not in text)
    else:
        assert (status, stream, text.count("\n")) == (2, 2, 1)
        assert text.startswith("ropewalk: ") and text[:-1].isprintable() and len(text) < 400


@given(st.lists(ANY, min_size=1))
def test_words_come_out_of_a_shell_as_they_went_in(words: list[str]) -> None:
    sent = ropewalk.encoded(words)
    assert all(ropewalk.PLAIN.fullmatch(word) for word in sent)
    assert shlex.split(" ".join(sent)) == sent
    assert (ropewalk.decoded(sent[1:]) if sent[0] == "--words" else sent) == words


STEP = {
    "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "12", "SLURM_STEP_NODELIST": "gpu-[007-009],login",
}  # fmt: skip


def test_a_task_of_a_slurm_step_is_a_rank() -> None:
    found = ropewalk.rank_of_slurm(STEP)
    assert found == {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu-007", "MASTER_PORT": str(29500 + 121)
    }  # fmt: skip
    assert ropewalk.rank_of_slurm(STEP | {"MASTER_PORT": "7"})["MASTER_PORT"] == "7"
    own_gpu = {"SLURM_GPUS_ON_NODE": "4", "CUDA_VISIBLE_DEVICES": "2"}
    assert ropewalk.rank_of_slurm(STEP | own_gpu)["LOCAL_RANK"] == "0"
    own_gpu["CUDA_VISIBLE_DEVICES"] = "0,1,2,3"
    assert ropewalk.rank_of_slurm(STEP | own_gpu)["LOCAL_RANK"] == "1"


@pytest.mark.parametrize(
    "change", [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_neither_a_single_task_nor_a_rank_of_another_launcher_is_renumbered(
    change: dict[str, str],
) -> None:
    assert ropewalk.rank_of_slurm(STEP | change) == {}
    # A batch script has the job's variables, and no step.
    assert ropewalk.rank_of_slurm({k: v for k, v in STEP.items() if k != "SLURM_STEP_ID"}) == {}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[1-2]", "n1"), ("a-[03,07-09]x,b", "a-03x"), ("a,b[1-2]", "a"), ("r[0-1]n[5-6]", "r0n5")],
)  # fmt: skip
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert ropewalk.first_node(nodes) == first


def test_the_installed_program_runs_through_a_link_from_a_checkout_with_an_odd_name(
    tmp_path: Path,
) -> None:
    launch, home = tmp_path / "it's a $HOME/launch", tmp_path / "bin"
    launch.mkdir(parents=True)
    home.mkdir()
    for name in ("ropewalk.py", "install.py"):
        (launch / name).write_text((ROOT / f"launch/{name}").read_text())
    (launch.parent / "pyproject.toml").write_text('version = "7.8.9"\n')
    install.LAUNCHER = launch / "ropewalk.py"
    python = launch / "python"
    python.symlink_to(sys.executable)
    (home / "walk").symlink_to(install.put_launcher(python))
    hostile = {**os.environ, "PYTHONPATH": str(launch), "PYTHONSAFEPATH": ""}
    (launch / "contextlib.py").write_text("raise RuntimeError")
    said = subprocess.run(
        [home / "walk", "--version"], capture_output=True, text=True, env=hostile, cwd=tmp_path
    )
    assert said.stdout == f"ropewalk 7.8.9, {launch.parent}\n" and said.stderr == ""
