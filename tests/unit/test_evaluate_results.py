"""The folder of an evaluation's results is continued with the same settings, and else refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from train.configuration.prompt_settings import PromptTaskConfig
from train.configuration.schema import RunConfig, ScheduleConfig
from train.evaluate.results import open_results

MODEL = {"kind": "checkpoint", "sha256": "a"}
ROW: dict[str, Any] = {"step": 3, "stage": "x", "tokens_seen": 9, "task": "passkey", "loss": 1.0}


def config(samples: int = 1, name: str = "passkey", **changes: Any) -> RunConfig:
    run = RunConfig(run_name="x", schedule=ScheduleConfig(stages={}), **changes)
    run.evaluation.tasks = {name: PromptTaskConfig(task=name, lengths=[256], samples=samples)}
    return run


def folder(tmp_path: Path) -> Path:
    """A folder with the row of one task."""
    open_results(tmp_path / "x", config(), MODEL).add(ROW)
    return tmp_path / "x"


def test_a_task_that_was_done_is_found_again(tmp_path: Path) -> None:
    again = open_results(folder(tmp_path), config(), MODEL)
    assert (again.row_of("passkey"), again.row_of("vt")) == (ROW, None)


def test_another_task_stands_beside_those_done_and_their_settings_stay(tmp_path: Path) -> None:
    more = open_results(folder(tmp_path), config(5, "vt"), MODEL)
    more.add(ROW | {"task": "vt"})
    assert set(more.config.evaluation.tasks) == {"passkey", "vt"}
    again = open_results(tmp_path / "x", config(), MODEL)
    assert [row["task"] for row in again.rows] == ["passkey", "vt"]


def test_a_killed_write_of_a_row_leaves_the_rows_before(tmp_path: Path) -> None:
    (folder(tmp_path) / "evaluation.jsonl").open("a").write('{"task": "v')
    assert open_results(tmp_path / "x", config(), MODEL).rows == [ROW]


@pytest.mark.parametrize(
    ("now", "model", "says"),
    [
        (config(2), MODEL, "other settings of evaluation.tasks.passkey.samples"),
        (config(seed=3), MODEL, "other settings of seed"),
        (config(), MODEL | {"sha256": "b"}, "results of another model"),
    ],
)
def test_results_of_other_settings_are_refused(
    now: RunConfig, model: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says) as error:
        open_results(folder(tmp_path), now, model)
    assert "\n" not in str(error.value)
    assert open_results(tmp_path / "x", config(), MODEL).rows == [ROW]


def test_the_folder_of_a_training_run_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "evaluation.jsonl").write_text("of a run\n")
    with pytest.raises(ValueError, match="holds files of something else"):
        open_results(tmp_path, config(), MODEL)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.jsonl"]


@pytest.mark.parametrize("damaged", ["config.yaml", "evaluated.json"])
def test_damaged_results_are_refused(damaged: str, tmp_path: Path) -> None:
    (folder(tmp_path) / damaged).write_text("a: [")
    with pytest.raises(ValueError, match="cannot be continued") as error:
        open_results(tmp_path / "x", config(), MODEL)
    assert "\n" not in str(error.value)


def test_a_file_in_the_way_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--output: cannot read .*Not a directory"):
        open_results(tmp_path / "file" / "x", config(), MODEL)
