"""docs/recipes.md: its commands are sound, its YAML composes, its numbers are those of the record beside it."""

import importlib.util
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from composed import composed_once  # noqa: F401 (a fixture)
from train.__main__ import main
from train.configuration import validate
from train.configuration.compose import compose_run
from train.schedule.stages import build_schedule

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/recipes.md").read_text()
# How the extension in minutes begins: the shape of `model=tiny recipe=llama`, as its export says it.
SMALL = {
    "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 32,
    "num_attention_heads": 6, "num_key_value_heads": 2, "rope_theta": 10000.0, "rope_scaling": None,
    "max_position_embeddings": 256,
}  # fmt: skip


def commands() -> list[str]:
    """Every `ropewalk train` of the page, alone or under torchrun, on one line."""
    joined = re.sub(r" \\\n +", " ", PAGE)
    return [
        line.strip()
        for line in joined.splitlines()
        if re.match(r"    ropewalk (train|torchrun) ", line)
    ]


def block(kind: str, name: str) -> str:
    """The text of a marked YAML block."""
    found = re.search(
        rf"<!-- yaml: {kind}={re.escape(name)} -->\n```yaml\n(.*?)```", PAGE, re.DOTALL
    )
    assert found is not None, name
    return found[1]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """tests/benchmark/llama_recipe.py."""
    path = ROOT / "tests/benchmark/llama_recipe.py"
    specification = importlib.util.spec_from_file_location("llama_recipe", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    declare: Callable[..., str],
    recipe: ModuleType,
) -> Path:
    """A folder as the page leaves it: its YAML files, prepared sources, imported models."""
    monkeypatch.chdir(tmp_path)
    for kind, name in (("model", "2b.yaml"), ("schedule", "own.yaml")):
        Path(name).write_text(block(kind, name))
    Path("corpus").mkdir()
    for name in ("texts", "heldout", "books", "repositories", "web"):
        declare(Path("corpus") / name, vocab_size=4096)
    recipe.imported(Path("llama3"), recipe.BEFORE)
    recipe.imported(Path("imported"), recipe.PUBLISHED)
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_page_is_sound(
    command: str,
    folder: Path,
    recipe: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "_small" in command:
        kept = "cohere2" in command
        small = {"model_type": "cohere2", "layer_norm_eps": 1e-5} if kept else {}
        recipe.imported(Path("imported"), recipe.PUBLISHED | SMALL | small)
    if "llama31" in command:
        monkeypatch.setenv("WORLD_SIZE", "8")
        monkeypatch.setenv("RANK", "0")
    words = shlex.split(command, comments=True)
    arguments = words[words.index("--") + 1 :] if "torchrun" in words else words[2:]
    arguments = [word for word in arguments if word not in ("--check", "--preflight")]
    assert main(["--check", *arguments]) == 0, capsys.readouterr().err
    assert "the configuration is sound" in capsys.readouterr().out


def test_check_answers_as_the_page_shows(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, shown = re.findall(r"<!-- says: (.*?) -->\n(.*?)\n\n", PAGE, re.DOTALL)[0]
    assert main(shlex.split(command)) == 0
    said = capsys.readouterr().out
    for line in shown.splitlines():
        assert line.removeprefix("    ") in said


def test_the_annotated_schedule_is_the_shipped_one_with_a_word_on_each_line() -> None:
    text = block("schedule", "own.yaml")
    shipped = (ROOT / "conf/schedule/extend_raised_base.yaml").read_text()
    assert yaml.safe_load(text) == yaml.safe_load(shipped)
    assert all(" # " in line for line in text.splitlines())


def test_the_tables_are_those_of_the_record_and_of_the_recipe(
    folder: Path,
    recipe: ModuleType,
) -> None:
    record = json.loads((ROOT / "docs/recipes.json").read_text())
    for name, table in recipe.tables(record).items():
        assert f"<!-- {name}: begin -->\n{table}\n<!-- {name}: end -->" in PAGE, table
    computed = recipe.numbers(compose_run(["experiment=llama31_128k"]))
    assert json.loads(json.dumps(computed)) == record


def test_a_base_that_rises_beside_a_scaling_is_warned_of(
    folder: Path,
) -> None:
    for schedule, says in (("extend_raised_base", True), ("llama31_128k", False)):
        config = compose_run(["experiment=llama31_128k", f"schedule={schedule}"])
        resolved, found = build_schedule(config)
        assert resolved is not None, found
        lines = [
            line for line in validate.warnings(config, resolved) if "beside model.kinds" in line
        ]
        assert bool(lines) == says


RECIPES = sorted(path.stem for path in (ROOT / "conf/recipe").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_sound_and_stands_on_the_page_of_positions(recipe: str) -> None:
    run = compose_run(["experiment=quickstart", f"recipe={recipe}", "model.num_layers=6"])
    assert validate.rules(run, 1) == []
    assert f"`{recipe}`" in (ROOT / "docs/positions.md").read_text()
