"""What the page says beside its figures: how the run stands, its data, command, configuration, machine, checkpoints."""

import html
import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from tests.unit.made_run import BATCH, START, made_evaluations, made_steps, write_run
from train.configuration.compose import compose_run
from train.report.data_section import lengths_figure, planned_tokens, seen_tokens
from train.report.differences import differences, differing
from train.report.overview import standing, time_left
from train.report.page import render
from train.report.record import RunRecord, read_run
from train.report.units import NOTHING


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    steps = made_steps()
    return read_run(
        write_run(tmp_path_factory.mktemp("runs") / "made", steps, made_evaluations(steps))
    )


def words(page: str) -> str:
    """The text of a page, one space between two pieces."""
    page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_page_says_when_it_was_written_and_of_which_step(record: RunRecord) -> None:
    text = words(render(record, now=datetime(2025, 1, 31, 11, 30, tzinfo=UTC)))
    assert "Complete. Written 2025-01-31 11:30 UTC, after step 400." in text
    begun = replace(record, steps=(), evaluations=())
    text = words(render(begun, running=True, now=datetime(2025, 1, 31, 11, 30, tzinfo=UTC)))
    assert "Starting. Written 2025-01-31 11:30 UTC, before the first step." in text


def test_how_a_run_stands(record: RunRecord) -> None:
    part = replace(record, steps=record.steps[:100], evaluations=(), summary={})
    left = time_left(part)
    assert left is not None
    speeds = [BATCH / row["step_seconds"] for row in part.steps[-50:]]
    assert min(speeds) < (3_276_800 - 100 * BATCH) / left < max(speeds)
    assert standing(part, running=True).startswith(
        "Training, 25.0% of its tokens seen, about 1 min"
    )
    assert standing(part, running=False).startswith(
        "Unfinished, 25.0% of its tokens seen; its last row"
    )
    stopped = replace(part, summary={"steps": 100, "complete": False, "failure": ""})
    assert standing(stopped, running=False) == "Stopped and saved, 25.0% of its tokens seen"
    failed = replace(stopped, summary={"steps": 100, "failure": "the disk is full"})
    assert standing(failed, running=False).startswith("Failed: the disk is full, 25.0%")
    killed = replace(part, error="RuntimeError: out of memory")
    assert standing(killed, running=False).startswith("Failed: RuntimeError: out of memory, 25.0%")
    older = replace(killed, error="", summary={"steps": 60, "complete": True})  # of a start before
    assert standing(older, running=False).startswith("Unfinished")


def test_sources_have_tokens_epochs_and_shares_planned_and_seen(record: RunRecord) -> None:
    """code: 3/4 of 2,867,200 tokens out of 1M; books: the rest and all of the last 409,600 out of 2M."""
    assert planned_tokens(record) == {"code": 2_150_400, "books": 716_800 + 409_600}
    text = words(render(record))
    assert "code 1M 8k 2.15 65.6% c/code" in text
    assert "books 2M 600 0.563 34.4% c/books" in text
    assert "Held out: 12k tokens in 10 documents" in text
    assert f"code 75.0% 75.0% {NOTHING}" in text  # by stage
    rows = [
        row | {"sources": {"code": {"tokens": 4096, "loss": 3.0}, "books": {"tokens": 4096}}}
        for row in record.steps
    ]
    text = words(render(replace(record, steps=tuple(rows))))
    assert "code 1M 8k 2.15 1.64 65.6% 50.0% c/code" in text


def test_tokens_seen_of_a_source_with_labels_are_more_than_its_targets(record: RunRecord) -> None:
    row = {"sources": {"code": {"tokens": 300}, "books": {"tokens": 300}}}
    start = {"sources": {"code": {"tokens": 900, "labelled_tokens": 300}, "books": {"tokens": 900}}}
    seen = seen_tokens(replace(record, starts=(start,), steps=(row, row)))
    assert seen == {"code": 1800, "books": 600}


def test_lengths_of_documents_are_shares_of_a_sources_tokens(record: RunRecord) -> None:
    figure = lengths_figure(record)
    assert figure.title == "33% of the tokens stand in documents longer than 4,096"
    bars = {trace["name"]: dict(zip(trace["x"], trace["y"], strict=True)) for trace in figure.data}
    lengths = ["256", "512", "1,024", "2,048", "4,096", "8,192"]
    assert bars["code"] == dict.fromkeys(lengths, 0.0) | {"256": 1.0}
    assert bars["books"] == dict.fromkeys(lengths, 0.0) | {"4,096": 0.5, "8,192": 0.5}


def test_command_commit_machine_and_checkpoints_are_told(record: RunRecord) -> None:
    text = words(render(record))
    assert "/usr/bin/python -m train 'run_name=a b' model.num_layers=8" in text
    assert "Commit 0123456789ab with changes in 2 files" in text
    assert "warning: node1: the disk is nearly full" in text
    assert "node1 0-1, 4" in text
    assert "zero 2 1 150 \N{MICRO SIGN}s 1.1 GB/s 2.23 GB/s 2.02 GB/s 1 → 0" in text
    assert "step_00000400" in text
    assert "28.3 kB" in text
    again = START | {"step": 120, "commit": None, "started": "2025-01-31T12:00:00+00:00"}
    text = words(render(replace(record, starts=(START, again))))
    assert "2025-01-31 12:00 UTC 120 2 ranks on cpu not known" in text


def test_every_difference_from_the_defaults_is_told_with_both_values() -> None:
    config = asdict(
        compose_run(["experiment=quickstart", "optimizer.beta2=0.98", "train.max_steps=7"])
    )
    found = {
        key: (value, default) for key, value, default in differences(json.loads(json.dumps(config)))
    }
    assert found["optimizer.beta2"] == ("0.98", "0.95")
    assert found["train.max_steps"] == ("7", "null")
    assert found["schedule.stages.short.tokens"] == ("524288", "none")
    assert found["schedule.stages.short.learning_rate.shape"] == ("constant", "cosine")
    assert "optimizer.beta1" not in found
    assert "schedule.stages.short.rope_base" not in found


def test_keys_of_other_versions_have_todays_name_or_are_said_to_be_unknown() -> None:
    old = {
        "model": {"rope_full": {"scaling": "yarn"}, "hidden_size": 192},
        "train": {"turbo": True},
    }
    found = {key: value for key, value, _ in differences(old)}
    assert found["model.kinds.full_rope.rope.scaling"] == "yarn"
    assert ("train.turbo", "true", "not a key of this version") in differences(old)


def test_configurations_of_two_runs_are_compared_key_by_key() -> None:
    one, two = {"run_name": "a", "seed": 1, "model": {"window": 2}}, {"run_name": "b", "seed": 1}
    assert differing([one, two]) == [["model.window", "2", ""]]
