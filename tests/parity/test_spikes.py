"""Losses that are not finite or spike, planted on one rank: steps skipped, runs stopped, runs taken back.

A fault belongs to the data, not to the step: it comes with the micro-batch it was planted in, and is gone when
that is stepped over.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from data.files import seal
from data.packing.planner import BatchPlanner
from data.packing.spans import Span, rows_of_rank
from data.sources import open_corpus
from model.transformer import Transformer
from ranks import run_on_ranks
from train import job, loop
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.state import FORMAT, STATE, read_state
from train.configuration.compose import compose_run
from train.schedule.stages import build_schedule

Arguments = Callable[..., list[str]]
NAN, HIGH = float("nan"), 9.0
ROWS = 8  # of a batch of the first stage
SPIKES = {
    "train.spikes.window": "8",
    "train.max_steps": "10",
    "evaluation.enabled": "false",
}


def run_with(
    arguments: list[str],
    faults: Mapping[int, float],
    on: int = 1,
    ranks: int = 2,
    also: Callable[[pytest.MonkeyPatch], None] = lambda _: None,
) -> list[int]:
    """Exit statuses of a run; on rank `on` the first micro-batch's loss in batch N is multiplied by faults[N]."""

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, faults if rank == on else {})
            also(patch)
            return job.run_job(config)

    return run_on_ranks(work, ranks)


def plant(patch: pytest.MonkeyPatch, faults: Mapping[int, float]) -> None:
    step, loss = loop.optimizer_step, Transformer.loss
    factors: list[float] = []

    def watched(trainer: Any, mesh: Any, batch: Any, **named: Any) -> Any:
        factors[:] = [faults.get(batch.cursor["rows"] // ROWS, 1.0)]
        return step(trainer, mesh, batch, **named)

    def spoilt(*given: Any) -> Any:
        found, factor = loss(*given), factors.pop() if factors else 1.0
        return replace(found, total=found.total * factor, loss_sum=found.loss_sum * factor)

    patch.setattr(loop, "optimizer_step", watched)
    patch.setattr(Transformer, "loss", spoilt)


def rows(outputs: Path, name: str = "small") -> list[dict[str, Any]]:
    lines = (outputs / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def tensors(outputs: Path, name: str, step: int) -> dict[str, bytes]:
    folder = outputs / name / f"checkpoints/step_{step:08d}"
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def planned(arguments: list[str], batches: int) -> tuple[list[list[Span]], dict[str, Any]]:
    """The rows of the last of so many batches, and the cursor after it."""
    config = compose_run(arguments)
    schedule, _ = build_schedule(config)
    assert schedule is not None
    corpus = open_corpus(config.data, config.paths.prepared, config.model.vocab_size, check=False)
    planner = BatchPlanner(corpus.sources, seed=config.data.seed, look_ahead=8)
    drawn = [planner.plan(schedule.stages[0].shape) for _ in range(batches)]
    return drawn[-1], planner.state_dict()


@pytest.mark.parametrize(
    ("layout", "ranks", "on", "data_rank", "made_by"),
    [
        ({"parallel.zero_stage": "2"}, 2, 1, 1, ["1"]),
        # The last stage is on ranks 2 and 3, which share its one stream.
        ({"parallel.pipeline": "2", "parallel.sequence": "2"}, 4, 3, 0, ["2", "3"]),
    ],
    ids=["data", "pipeline and sequence"],
)
def test_a_step_is_skipped_and_its_micro_batch_named(
    layout: dict[str, str],
    ranks: int,
    on: int,
    data_rank: int,
    made_by: list[str],
    small_run: Arguments,
    tmp_path: Path,
) -> None:
    arguments = small_run(
        tmp_path,
        **SPIKES | layout | {"train.spikes.action": "skip", "train.max_skipped_steps": "2"},
        **{"checkpoint.every_steps": "1", "checkpoint.keep": "9"},
    )
    assert run_with(arguments, {3: NAN, 8: HIGH}, on, ranks) == [0] * ranks
    found = rows(tmp_path)
    skipped = {row["step"]: row["skipped_because"] for row in found if row["skipped"]}
    assert skipped == {3: "not finite", 8: "spike"}
    assert found[7]["loss"] > found[7]["spikes"]["limit"]
    for step in skipped:
        before, after = (tensors(tmp_path, "small", number) for number in (step - 1, step))
        assert before and before == after, "weights and moments are those of the step before"
    for kind, step in (("nonfinite", 3), ("spike", 8)):
        seen = json.loads((tmp_path / f"small/{kind}_step_{step:08d}.json").read_text())
        (guilty,) = seen["offending"]
        assert (guilty["data_rank"], guilty["micro_batch"]) == (data_rank, 0)
        assert list(guilty["ranks"]) == made_by
        assert (guilty["ranks"][str(on)] == "nan") == (step == 3)
        assert guilty["documents"] == documents(arguments, step, data_rank, 2 if ranks == 2 else 1)
        assert len(seen["others"]) == 3


def documents(
    arguments: list[str], batch: int, data_rank: int, data_size: int
) -> list[dict[str, Any]]:
    """What the first micro-batch of a data rank holds in that batch."""
    drawn, _ = planned(arguments, batch)
    schedule, _ = build_schedule(compose_run(arguments))
    assert schedule is not None
    shape = schedule.stages[0].shape
    dealt = rows_of_rank(
        shape.num_rows, shape.rows_per_micro_batch, dp_rank=data_rank, dp_size=data_size
    )
    numbers = dealt[0]
    return [asdict(span) | {"source": "all"} for number in numbers for span in drawn[number]]


@pytest.mark.parametrize(
    ("changes", "fault", "says"),
    [
        (
            {"train.max_steps": "10"},
            {3: NAN},
            "nonfinite_step_00000003.json names ranks and documents",
        ),
        (
            SPIKES | {"train.spikes.action": "stop"},
            {8: HIGH},
            "go on with train.spikes.action=skip",
        ),
    ],
)
def test_a_step_stops_every_rank(
    changes: dict[str, str],
    fault: dict[int, float],
    says: str,
    small_run: Arguments,
    tmp_path: Path,
) -> None:
    assert run_with(small_run(tmp_path, **changes), fault) == [1, 1]
    (step,) = fault
    assert len(rows(tmp_path)) == step - 1
    assert says in (tmp_path / "small/error.txt").read_text()


ROLLBACK = SPIKES | {
    "train.spikes.action": "rollback",
    "train.spikes.patience": "2",
    # A window that grows every step: a step that is done again has that of its tokens.
    "+schedule.stages.first.kinds.window_rope": "{window: {start: 4, per_step: 1}}",
    "checkpoint.every_steps": "4",
    "checkpoint.keep": "3",
}
# Steps 8 and 9 spike: back to step 4, though there is a checkpoint of step 8.
TWO_SPIKES = {8: HIGH, 9: HIGH}


def same_steps(outputs: Path, name: str, expected: str, first: int) -> None:
    for key in ("step", "loss", "gradient_norm", "tokens_seen", "valid_tokens", "learning_rate"):
        values = [
            [row[key] for row in rows(outputs, run) if row["step"] >= first]
            for run in (name, expected)
        ]
        assert values[0] == values[1], key
    assert tensors(outputs, name, 10) == tensors(outputs, expected, 10) != {}


@pytest.mark.parametrize("axis", ["sequence", "pipeline"])
def test_after_a_rollback_the_run_is_one_that_began_there_beyond_the_data(
    axis: str, small_run: Arguments, tmp_path: Path
) -> None:
    def arguments(name: str, **changes: str) -> list[str]:
        return small_run(tmp_path, run_name=name, **ROLLBACK | {f"parallel.{axis}": "2"} | changes)

    assert run_with(arguments("back"), TWO_SPIKES) == [0, 0]
    assert [row["step"] for row in rows(tmp_path, "back")] == list(range(1, 11))
    assert rows(tmp_path, "back")[-1]["spikes"]["rollbacks"] == 1
    (line,) = (tmp_path / "back/stepped_over.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert [record[key] for key in ("from_step", "first_spiking_step", "to_step")] == [4, 8, 9]
    assert record["tokens"] == 5 * 512
    _, beyond = planned(arguments("back"), 9)
    assert record["to_cursor"] == json.loads(json.dumps(beyond))

    begun = tmp_path / "begun"
    shutil.copytree(tmp_path / "back/checkpoints/step_00000004", begun)
    state = replace(read_state(begun), cursor=beyond)
    (begun / STATE).write_bytes(seal({"format": FORMAT, **asdict(state)}))
    assert run_with(arguments("oracle", **{"checkpoint.resume": str(begun)}), {}) == [0, 0]
    same_steps(tmp_path, "back", "oracle", first=5)


@pytest.mark.slow
def test_a_rollback_to_the_border_where_groups_are_frozen_is_a_run_that_began_there(
    small_run: Arguments, tmp_path: Path
) -> None:
    """The second stage freezes a group; its steps 9 and 10 spike, and the only checkpoint is that of step 4."""
    groups = {
        "schedule.stages.first.tokens": "2048",
        "schedule.stages.second.sequence_length": "64",
        "schedule.learning_rate.warmup_tokens": "0",
        "optimizer.groups": "{windows: {kinds: [window_rope]}}",
        "+schedule.stages.second.groups": "{windows: {frozen: true}}",
        "checkpoint.every_steps": "0",
    }

    def arguments(name: str, **changes: str) -> list[str]:
        return small_run(tmp_path, run_name=name, **ROLLBACK | groups | changes)

    assert run_with(arguments("back"), {9: HIGH, 10: HIGH}) == [0, 0]
    log = (tmp_path / "back/log.txt").read_text()
    assert "back at step 4 " in log
    assert log.count("are dropped: frozen now") == 2
    begun = tmp_path / "begun"
    shutil.copytree(tmp_path / "back/checkpoints/step_00000004", begun)
    cursor = json.loads((tmp_path / "back/stepped_over.jsonl").read_text())["to_cursor"]
    (begun / STATE).write_bytes(
        seal({"format": FORMAT, **asdict(replace(read_state(begun), cursor=cursor))})
    )
    assert run_with(arguments("oracle", **{"checkpoint.resume": str(begun)}), {}) == [0, 0]
    same_steps(tmp_path, "back", "oracle", first=5)
    state = read_state(tmp_path / "back/checkpoints/step_00000010")
    assert state.optimizer_steps == 10 and set(state.other_optimizer_steps.values()) == {0}


def test_a_kill_in_a_rollback_changes_nothing(small_run: Arguments, tmp_path: Path) -> None:
    def arguments(name: str) -> list[str]:
        return small_run(tmp_path, run_name=name, **ROLLBACK)

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def first_step_after(patch: pytest.MonkeyPatch) -> None:
        step = loop.optimizer_step

        def watched(trainer: Any, mesh: Any, batch: Any, **named: Any) -> Any:
            return die() if batch.cursor["rows"] > 9 * ROWS else step(trainer, mesh, batch, **named)

        patch.setattr(loop, "optimizer_step", watched)

    assert run_with(arguments("back"), TWO_SPIKES) == [0, 0]
    for moment in (
        lambda patch: patch.setattr(job, "roll_back", die),
        lambda patch: patch.setattr(Checkpoints, "restate", die),
        first_step_after,
    ):
        with pytest.raises(RuntimeError, match="ranks died"):
            run_with(arguments("killed"), TWO_SPIKES, also=moment)
    assert run_with(arguments("killed"), TWO_SPIKES) == [0, 0]
    same_steps(tmp_path, "killed", "back", first=1)
    # The last start found the state that the third had left: it did not have to spike once more.
    assert (tmp_path / "killed/log.txt").read_text().count("back at step 4") == 1
    for name in ("stepped_over.jsonl", "spike_step_00000009.json"):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "back" / name).read_text()


@pytest.mark.parametrize(
    ("changes", "faults", "says"),
    [
        # Back at step 4 the next data spikes as well.
        (
            {"train.spikes.max_rollbacks": "1"},
            {**TWO_SPIKES, 10: HIGH, 11: HIGH},
            "steps 5 to 6 spiked and train.spikes.max_rollbacks=1 are used up",
        ),
        ({"checkpoint.every_steps": "8"}, TWO_SPIKES, "has no checkpoint from before"),
    ],
    ids=["used up", "nothing to go back to"],
)
def test_a_run_that_cannot_go_back_stops_with_a_reason(
    changes: dict[str, str],
    faults: dict[int, float],
    says: str,
    small_run: Arguments,
    tmp_path: Path,
) -> None:
    assert run_with(small_run(tmp_path, **ROLLBACK | changes), faults) == [1, 1]
    assert says in (tmp_path / "small/error.txt").read_text()
    again = tmp_path / "small/spike_step_00000006_rollback_1.json"
    assert again.exists() == ("used up" in says)
