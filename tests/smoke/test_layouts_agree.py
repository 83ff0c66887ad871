"""One run on two data ranks and on a grid of four that changes in mid-run: the same numbers, by the real command."""

from pathlib import Path
from typing import Any

import pytest

from tests import launched
from tests.smoke.command import rows
from train.compare.comparison import compare
from train.compare.sides import read_side

# Six steps each: tensor 2 x sequence 2, then pipeline 2 x sequence 2.
GRID = {
    "parallel.tensor": "2",
    "parallel.sequence": "2",
    "schedule.stages.second.parallel": "{tensor:1,pipeline:2,sequence:2,sequence_layout:balanced}",
}
SWITCH, STEPS = 6, 12
SHORT = {f"schedule.stages.{stage}.tokens": "3072" for stage in ("first", "second")}
EXACT = ("step", "stage", "tokens_seen", "valid_tokens", "learning_rate", "padding_fraction")


@pytest.fixture(scope="module")
def outputs(small_run: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Runs called `data` and `grid`, and how to ask for another one."""
    folder = tmp_path_factory.mktemp("outputs")

    def arguments(name: str, **changes: str) -> list[str]:
        return small_run(folder, run_name=name, **SHORT | changes)

    for name, ranks, changes in (("data", 2, {}), ("grid", 4, GRID)):
        finished = launched.run(ranks, arguments(name, **changes))
        assert finished.returncode == 0, finished.stderr
        assert f"is complete: {STEPS} steps" in finished.stdout
    return folder, arguments


def test_four_ranks_in_two_grids_agree_with_two_data_ranks(outputs: tuple[Path, Any]) -> None:
    folder, _ = outputs
    expected, found = rows(folder, "data"), rows(folder, "grid")
    assert len(found) == STEPS
    for key in EXACT:
        assert [row[key] for row in found] == [row[key] for row in expected], key
    for key in ("loss", "gradient_norm"):
        # 12 steps of float32 whose sums are ordered differently.
        assert [row[key] for row in found] == pytest.approx(
            [row[key] for row in expected], rel=1e-5
        )
    received = [row["sequence_bytes_received"] for row in found]
    assert all(row["window"]["max"] >= row["window"]["mean"] > 0 for row in received)
    assert "sequence_bytes_received" not in expected[0]
    assert (folder / "grid/pipeline_second.svg").stat().st_size > 1000
    assert "measured bubble" in (folder / "grid/pipeline_second.txt").read_text()


def test_compare_finds_differences_of_results_and_layout_only(outputs: tuple[Path, Any]) -> None:
    folder, _ = outputs
    found = compare(read_side(folder / "data"), read_side(folder / "grid"))
    assert found["steps"]["compared"] == STEPS
    assert {one["kind"] for one in found["steps"]["differences"]} == {"result"}
    assert found["data"] == []
    (last,) = found["checkpoints"][-1:]
    assert last["differences"][0]["tensor"] == "weight/embedding.weight"
    assert not any("only_in" in one or "shapes" in one for one in last["differences"])


def test_held_out_losses_agree(outputs: tuple[Path, Any]) -> None:
    folder, _ = outputs
    for expected, found in zip(
        rows(folder, "data", "evaluation"), rows(folder, "grid", "evaluation"), strict=True
    ):
        assert found["tokens"] == expected["tokens"]
        for bucket, wanted in zip(
            found["position_buckets"], expected["position_buckets"], strict=True
        ):
            assert bucket == pytest.approx(wanted, rel=1e-5)


def test_a_run_killed_at_the_switch_goes_on_bit_for_bit(outputs: tuple[Path, Any]) -> None:
    folder, arguments = outputs
    name = "killed_at_switch"
    again = arguments(name, **GRID, **{"checkpoint.every_steps": "3"})
    with launched.Launch(4, again) as launch:
        launch.until_steps(folder / name / "metrics.jsonl", SWITCH)
        launch.kill()
    finished = launched.run(4, again)
    assert finished.returncode == 0, finished.stderr
    expected, found = rows(folder, "grid"), rows(folder, name)
    for key in (*EXACT, "loss", "gradient_norm"):
        assert [row[key] for row in found] == [row[key] for row in expected], key
