"""docs/interfaces.md says what is there: every command and option, every key, every field of a record, and no other."""

import ast
import dataclasses
import re
from collections.abc import Iterator

from tests.unit.test_documents import ROOT, texts
from train.checkpointing.state import RunState
from train.configuration.keys import known_keys

# Options of torchrun and of DeepSpeed's launcher.
LAUNCHERS_OWN = {"--nproc-per-node", "--module", "--num_gpus", "--local_rank"}
PAGE = (ROOT / "docs/interfaces.md").read_text()


def section(title: str) -> str:
    """The part of the page under a heading, to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}.*?\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
    assert found, title
    return found[1]


def rows(title: str) -> Iterator[str]:
    """The first cells of the tables of a section."""
    for row in re.findall(r"^\| (.*?) \| ", section(title), re.M):
        if "`" in row:
            yield row


def words(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def names(title: str) -> set[str]:
    return {name for row in rows(title) for name in words(row)}


def test_the_page_has_every_key_of_a_run_and_no_other() -> None:
    documented = set()
    for row in rows("Configuration"):
        section_of = ""
        for word in words(row):
            key = section_of + word if word.startswith(".") else word
            section_of = key.rpartition(".")[0]
            documented.add(key)
    documented = {key for key in documented if "=" not in key}
    known = {key for key in known_keys() if not any(k.startswith(f"{key}.") for k in known_keys())}
    assert documented == known


def test_every_command_and_option_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    launcher = (ROOT / "launch/ropewalk.py").read_text()
    commands = " ".join(names("Commands"))
    assert set(re.findall(r"make ([a-z-]+)", commands)) <= set(targets)
    modules = set(re.findall(r"-m ([a-z_]+\.[a-z_]+)", commands))
    assert len(modules) >= 6
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for name in re.findall(r"ropewalk ([a-z]+)", commands):
        assert f'"{name}"' in launcher, name
    gpu = [path.read_text() for path in (ROOT / "tests/gpu").glob("*.py")]
    said = set(texts()) | {word for text in texts() for word in text.split() if "--" in word}
    unknown = [
        option
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", section("Commands")))
        if option not in said | LAUNCHERS_OWN and not any(f'"{option}"' in text for text in gpu)
    ]
    assert not unknown


def test_every_option_of_a_command_with_options_of_its_own_is_on_the_page() -> None:
    folders = ("data", "train/huggingface", "train/advise")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    given = {
        argument.value
        for path in sources
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--")
    }
    assert len(given) > 5
    assert [option for option in sorted(given) if option not in section("Commands")] == []


def test_every_field_of_a_row_of_metrics_is_on_the_page_and_written() -> None:
    documented = names("`metrics.jsonl`")
    written = set()
    tree = ast.parse((ROOT / "train/loop.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "_metrics":
            top = next(n.value for n in ast.walk(node) if isinstance(n, ast.AnnAssign))
            assert isinstance(top, ast.Dict)
            written |= {key.value for key in top.keys if isinstance(key, ast.Constant)}
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            if isinstance(target.value, ast.Name) and target.value.id == "row":
                assert isinstance(target.slice, ast.Constant)
                written.add(target.slice.value)
    assert len(written) > 20
    assert written - documented == set()
    assert documented - set(texts()) == set()


def test_every_field_of_a_checkpoints_state_is_on_the_page() -> None:
    documented = names("A checkpoint: `checkpoints/step_NNNNNNNN/`")
    fields = {field.name for field in dataclasses.fields(RunState)}
    files = {word for word in documented if "/" in word or "." in word}
    assert documented - files - {"sha256", "format"} == fields


def test_every_file_of_a_run_is_named_in_the_program() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "launch").glob("*.sh"))
    for name in names("A run's folder: `outputs/<run_name>/`"):
        stem = re.split(r"(?:_step)?_?N{5,}|NAME|/|\*", name)[0]
        assert any(stem in text for text in texts()) or stem in scripts, name
