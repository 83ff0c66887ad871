"""Paths of a configuration: every key that holds one is marked, and a relative one starts at its own folder."""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from composed import composed_once  # noqa: F401 (a fixture)
from train.configuration.compose import ConfigMistakes, compose_run, from_yaml, to_yaml
from train.configuration.keys import hint_at, known_keys
from train.configuration.paths import absolute_path, is_path, start_folder
from train.configuration.typed import part_of
from train.configuration.validate import problems

# Whoever adds a key whose value is text decides here which of both it is.
PATHS = {
    "paths.outputs",
    "paths.prepared",
    "data.sources.NAME.prefix",
    "data.heldout",
    "data.sources.NAME.heldout",
    "data.tokenizer",
    "evaluation.tasks.NAME.file",
    "checkpoint.resume",
}
TEXTS = {
    "run_name",
    "logging.wandb.project",
    "logging.wandb.entity",
    "model.layer_pattern",
    "optimizer.groups.NAME.kinds",
    "optimizer.groups.NAME.parameters",
    "evaluation.accuracy.source",
    "data.sources.NAME.generated.of",
    "evaluation.tasks.NAME.task",
}
FILES = ["data=files", "data.sources.web.prefix=web"]


def mentions_text(hint: Any) -> bool:
    return hint is str or any(mentions_text(inner) for inner in typing.get_args(hint)[:2])


def texts() -> Iterator[str]:
    """Keys whose values are any text."""
    for key in known_keys():
        hint = hint_at(key.split("."))
        is_choice = typing.get_origin(hint) is typing.Literal
        # The names of a mapping's entries are no values.
        is_mapping = typing.get_origin(hint) is dict or part_of(hint)
        if mentions_text(hint) and not is_choice and not is_mapping:
            yield key


def test_of_every_key_with_a_text_somebody_decided_whether_it_is_a_path() -> None:
    found = set(texts())
    assert {key for key in found if is_path(key)} == PATHS
    assert found - PATHS == TEXTS


def test_the_start_folder_has_its_name_in_the_shell_and_else_its_physical_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    link = tmp_path / "link"
    link.symlink_to("here")
    monkeypatch.chdir(link)
    names = (link, tmp_path, tmp_path / "gone", f"{tmp_path}/here/../link", "link", "")
    found = []
    for name in names:
        monkeypatch.setenv("PWD", str(name))
        found.append(start_folder())
    assert found == [link] + [tmp_path / "here"] * 5
    monkeypatch.setenv("PWD", str(link))
    # ".." is that of the folder that the link leads to, as for the system.
    assert absolute_path("../x", start_folder()) == f"{tmp_path}/x"


def test_a_relative_path_at_the_root_begins_with_one_slash() -> None:
    assert [absolute_path(path, Path("/")) for path in ("x", "./x", "../x")] == ["/x"] * 3


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is started."""
    start = tmp_path / "start"
    start.mkdir()
    monkeypatch.chdir(start)
    return start


def test_paths_of_arguments_start_at_the_folder_of_the_command(folder: Path) -> None:
    given = ["data.heldout=../held", "checkpoint.resume=imported", "paths.outputs=runs"]
    run = compose_run([*FILES, *given])
    assert run.data.sources["web"].prefix == f"{folder}/web"
    assert run.data.heldout == f"{folder.parent}/held"
    assert run.checkpoint.resume == f"{folder}/imported"
    assert run.paths.outputs == f"{folder}/runs"
    assert run.paths.prepared == f"{folder}/runs/prepared"
    default = compose_run([])
    assert default.paths.outputs == f"{folder}/outputs"
    assert default.checkpoint.resume == "auto"
    assert default.data.heldout == ""


def test_paths_of_a_file_start_at_its_own_folder(folder: Path) -> None:
    own = folder.parent / "settings"
    own.mkdir()
    (own / "data.yaml").write_text(
        "sources: {web: {prefix: corpus/web}, far: {prefix: /far/off}}\nheldout: ${data.sources.web.prefix}\n"
    )
    (own / "mine.yaml").write_text(
        "defaults:\n  - override /data: data.yaml\npaths: {outputs: ../runs, prepared: '${paths.outputs}/made'}\n"
    )
    run = compose_run(["experiment=../settings/mine.yaml", "data.sources.own.prefix=own"])
    prefixes = {name: source.prefix for name, source in run.data.sources.items()}
    assert prefixes == {"web": f"{own}/corpus/web", "far": "/far/off", "own": f"{folder}/own"}
    assert run.data.heldout == prefixes["web"]
    assert run.paths.outputs == f"{folder.parent}/runs"
    assert run.paths.prepared == f"{folder.parent}/runs/made"


def test_two_points_after_a_link_lead_to_the_folder_above_its_target(folder: Path) -> None:
    (folder.parent / "far/inner").mkdir(parents=True)
    (folder / "link").symlink_to(folder.parent / "far/inner")
    assert compose_run(["paths.outputs=link/../runs"]).paths.outputs == f"{folder.parent}/far/runs"


def test_config_yaml_holds_absolute_paths_and_composes_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compose_run(FILES)
    text = to_yaml(run)
    monkeypatch.chdir("/")
    assert from_yaml(text) == run
    assert yaml.safe_load(text)["data"]["sources"]["web"]["prefix"] == f"{folder}/web"


def test_the_home_folder_is_what_a_tilde_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert compose_run([*FILES, "data.heldout=~/held"]).data.heldout == "/home/me/held"


@pytest.mark.parametrize(
    "path",
    ["/x/year=2024/base", "/x/a b", "/x/a,b", "/x/a:b", "/x/[a]{b}(c)", "/x/#a", "/x/~a", "/x/é字", "/x/a'b",
     "/x/\\a", "/x/a\"b", "/x/50%", "/x/$a", "/x/1e5", "/x/a@b", "/x/*"],
)  # fmt: skip
def test_a_path_is_taken_as_it_is_written(path: str) -> None:
    run = compose_run(["data=files", f"data.sources.web.prefix={path}", f"+data.heldout={path}"])
    assert run.data.sources["web"].prefix == path


@settings(max_examples=settings().max_examples // 4)
@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30))
def test_any_printable_path_is_taken_as_it_is_written(name: str) -> None:
    path = f"/x/{name}"
    try:
        assert compose_run([*FILES, f"data.heldout={path}"]).data.heldout == path
    except ConfigMistakes as error:
        assert "${" in name, error.mistakes


def test_a_path_in_quotes_is_what_stands_between_them() -> None:
    assert compose_run([*FILES, "data.heldout='/x/a b'"]).data.heldout == "/x/a b"
    assert compose_run([*FILES, 'data.heldout="/x/\\"b"']).data.heldout == '/x/"b'
    assert compose_run([*FILES, "data.heldout=''"]).data.heldout == ""
    with pytest.raises(ConfigMistakes, match=r"data\.heldout=null: must be a path"):
        compose_run([*FILES, "data.heldout=null"])


def test_a_value_that_must_be_quoted_is_shown_in_quotes() -> None:
    with pytest.raises(ConfigMistakes, match="""for example 'run_name="a=b, c"'"""):
        compose_run(["run_name=a=b"])
    assert compose_run(['run_name="a=b, c"']).run_name == "a=b, c"


def test_a_name_too_long_for_a_folder_is_one_line_beside_runs_that_exist(tmp_path: Path) -> None:
    config = compose_run([f"run_name={'a' * 300}", f"paths.outputs={tmp_path}"])
    (line,) = (line for line in problems(config, 1) if line.startswith("run_name="))
    assert "must be a plain folder name of at most 200 bytes" in line
