"""`python -m train.evaluate` finds what the run itself found, under every layout and from a Hugging Face export."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.evaluate.command import main
from train.export_huggingface import main as export
from train.job import run_job

LENGTHS = "96,128"
TASK = "{task: passkey, lengths: [96, 128], depths: 2, samples: 3, last_tokens: 40, controls: true}"
OPTIONS = ["--task", "held_out,passkey", "--lengths", LENGTHS, "--depths", "2", "--samples", "3"]
OPTIONS += ["--last-tokens", "40", "--controls", "evaluation.max_tokens=2048"]
CHANGES = {
    "train.max_steps": "2",
    "+evaluation.tasks": f"{{passkey: {TASK}}}",
    "evaluation.yardstick_tokens": "1000",
    "preflight.enabled": "false",
    # The closed words of the task are long in a small vocabulary, and the first stage has 64 tokens.
    "schedule.stages.first.sequence_length": "128",
}


@pytest.fixture(scope="module")
def run(
    small_run: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A run's folder, and its rows of evaluation.jsonl by task."""
    outputs = tmp_path_factory.mktemp("outputs")
    config = compose_run(small_run(outputs, **CHANGES))
    assert set(run_on_ranks(lambda *_: run_job(config), 1)) == {0}
    return outputs / "small", rows_of(outputs / "small")


def rows_of(folder: Path) -> dict[str, Any]:
    lines = (folder / "evaluation.jsonl").read_text().splitlines()
    return {row["task"]: row for row in map(json.loads, lines)}


def evaluated(arguments: list[str], ranks: int, output: Path) -> dict[str, Any]:
    """The rows by task that the command finds on so many ranks."""
    given = [*arguments, *OPTIONS, "--output", str(output)]
    assert set(run_on_ranks(lambda *_: main(given), ranks)) == {0}
    (found,) = output.glob("*/evaluation.jsonl")
    assert list(output.glob("*.html")) or list(found.parent.glob("report.html"))
    return rows_of(found.parent)


def check(found: dict[str, Any], run: dict[str, Any]) -> None:
    """Hits are equal, losses to 1e-5."""
    assert found.keys() == {"held_out", "passkey"}
    assert found["held_out"]["loss"] == pytest.approx(run["held_out"]["loss"], rel=1e-5)
    cells, wanted = found["passkey"]["cells"], run["passkey"]["cells"]
    assert len(cells) == len(wanted) == 4
    for cell, other in zip(cells, wanted, strict=True):
        for part in ("last_part", "removed", "swapped"):
            assert cell[part] == pytest.approx(other[part], rel=1e-5)
        numbers = ("length", "depth", "prompts", "hits", "loss", "first_wrong")
        assert {k: cell[k] for k in numbers} == pytest.approx(
            {k: other[k] for k in numbers}, rel=1e-5
        )


def test_a_checkpoint_is_evaluated_as_in_its_run(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, wanted = run
    check(evaluated(["--checkpoint", str(folder)], 1, tmp_path / "one"), wanted)


def test_a_checkpoint_is_evaluated_where_its_run_would_be_written(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = run
    given = ["--checkpoint", str(folder), "--task", "passkey,many_shot", "--lengths", "128"]
    given += ["--samples", "1", "--depths", "2", f"paths.outputs={folder.parent}"]
    assert set(run_on_ranks(lambda *_: main(given), 1)) == {0}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["tensor=2", "sequence=2", "pipeline=2", "zero_stage=1"])
def test_two_ranks_evaluate_as_the_run_did(
    change: str, run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, wanted = run
    check(
        evaluated(["--checkpoint", str(folder), f"parallel.{change}"], 2, tmp_path / "two"), wanted
    )


@pytest.mark.slow
def test_an_export_is_evaluated_in_memory_as_its_checkpoint(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, wanted = run
    assert export(["--checkpoint", str(folder), "--output", str(tmp_path / "model")]) == 0
    shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)
    given = ["--model", str(tmp_path / "model"), "--task", "passkey", "--lengths", LENGTHS]
    given += ["--depths", "2", "--samples", "3", "--output", str(tmp_path / "found")]
    assert set(run_on_ranks(lambda *_: main(given), 1)) == {0}
    found = rows_of(tmp_path / "found" / "model")["passkey"]["cells"]
    for cell, other in zip(found, wanted["passkey"]["cells"], strict=True):
        assert (cell["hits"], cell["depth"]) == (other["hits"], other["depth"])
        assert cell["loss"] == pytest.approx(other["loss"], rel=1e-5)


@pytest.mark.slow
def test_all_tasks_leave_out_lengths_without_room_and_say_which(
    run: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(run[0]), "--task", "all", "--lengths", "128", "--samples", "1"]
    given += ["--depths", "1", "--haystack", "noise", "--output", str(tmp_path)]
    assert set(run_on_ranks(lambda *_: main(given), 1)) == {0}
    (path,) = tmp_path.glob("*/evaluation.jsonl")
    found = rows_of(path.parent)
    said = capfd.readouterr().err
    assert "passkey" in found
    assert "cwe" not in found
    assert "left out, too short for a prompt: " in said
    assert "cwe at 128" in said
