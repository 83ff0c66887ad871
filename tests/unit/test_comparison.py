"""The page of several runs: curves on common axes, one colour a run, results of every task, what differs."""

import re
from pathlib import Path

from tests.unit.made_run import (
    Page,
    Row,
    check_figures,
    made_evaluations,
    made_prompts,
    made_steps,
    write_run,
)
from train.report.comparison import write_comparison
from train.report.record import RunRecord
from train.report.task_results import newest_of, other_results, task_results
from train.report.units import NOTHING

ACCURACY: Row = {"step": 9, "stage": "short", "tokens_seen": 72, "task": "accuracy"}
LENGTHS = [{"length": 1024, "accuracy": 0.5, "greedy": {"accuracy": 0.25}}]


def cells(table: str) -> list[list[str]]:
    """The text of every row of a table."""
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.split("</t[hd]>", row)[:-1]] for row in rows
    ]


def compared(tmp_path: Path) -> Page:
    """A run of 400 steps, and one of 300 at half the rate, both with two long-context tasks, the first with a third."""
    steps = made_steps()
    fewer = [row | {"learning_rate": row["learning_rate"] / 2} for row in steps[:300]]
    folders = []
    for name, rows, tasks in (("a", steps, "pqr"), ("b", fewer, "pq")):
        evaluations = made_evaluations(rows)
        more = made_prompts(evaluations, list(tasks))
        folders.append(write_run(tmp_path / name, rows, evaluations + more))
    (tmp_path / "b" / "config.yaml").write_text(
        (tmp_path / "a" / "config.yaml").read_text().replace("run_name: a", "run_name: b\nseed: 7")
    )
    return Page(write_comparison(folders).read_text(encoding="utf-8"))


def test_curves_have_common_axes_and_a_run_one_colour(tmp_path: Path) -> None:
    page = compared(tmp_path)
    check_figures(page)
    assert (
        set(page.figures)
        == page.places()
        == {
            *("loss", "position", "loss_step", "prompts0", "course0", "prompts1", "course1"),
            *(
                f"{key}_tokens_seen"
                for key in ("gradient_norm", "learning_rate", "tokens_per_second")
            ),
        }
    )
    for key, end in (("loss_step", 400), ("loss", 3_276_800), ("course0", 3_276_800)):
        figure = page.figures[key]
        assert figure["layout"]["xaxis"]["range"] == [0, end * 1.01]
        assert max(x for trace in figure["data"] for x in trace["x"]) == end
    for figure in page.figures.values():
        for trace in figure["data"]:
            assert trace["line"]["color"] == {"a": "@stage0", "b": "@stage1"}[trace["name"]]
    # The longest length of both: 8,192 is the double of a stage that only the first has reached.
    assert "share of hits at 2,048 tokens" in page.text


def test_every_task_has_a_table_of_the_runs_that_have_it(tmp_path: Path) -> None:
    page = compared(tmp_path)
    found = dict(re.findall(r"<h3>(\w+)</h3>(<div class='scroll.*?</table>)", page.text))
    assert set(found) == {"held_out", "p", "q", "r"}
    head, first, second = cells(found["p"])
    assert head[:9] == ["Run", "After", "Step", *("256", "512", "1,024", "2,048", "4,096", "8,192")]
    assert (first[0], first[1], first[3], first[9]) == ("a", "long", NOTHING, "4,096")
    assert (second[0], second[1], second[8]) == ("b", "middle", NOTHING)
    assert [row[0] for row in cells(found["r"])[1:]] == ["a"]
    assert "Loss, last 500 tokens" in found["held_out"]
    assert "<code>seed</code>" in page.text


def test_accuracy_and_tasks_of_other_kinds_have_their_numbers() -> None:
    other = ACCURACY | {
        "task": "long_perplexity",
        "share": 0.125,
        "form": "official",
        "tokens": 123_456,
        "buckets": [1],
    }
    records = [RunRecord("a", accuracies=(ACCURACY | {"lengths": LENGTHS},), more=(other,))]
    assert list(newest_of(records[0])) == ["accuracy", "long_perplexity"]
    accuracy, rest = task_results([*records, RunRecord("b")]).split("<h3>")[1:]
    assert cells(accuracy) == [
        ["Run", "After", "Step", "1,024", "1,024 greedy"],
        ["a", "short", "9", "50.0%", "25.0%"],
    ]
    assert cells(rest) == [
        ["Run", "After", "Step", "share", "form", "tokens"],
        ["a", "short", "9", "0.125", "official", "123,456"],
    ]


def test_one_run_shows_tasks_without_figures_by_stage() -> None:
    rows = [
        {"step": n, "stage": stage, "tokens_seen": n} for n, stage in ((1, "a"), (2, "a"), (3, "b"))
    ]
    more = [row | {"task": "held_out_copy", "loss": float(row["step"])} for row in rows]
    more.append(rows[0] | {"task": "p", "kind": "prompts", "cells": []})
    record = RunRecord("one", more=tuple(more))
    assert cells(other_results(record)) == [
        ["After", "Step", "loss"],
        ["a", "2", "2"],
        ["b", "3", "3"],
    ]
    assert other_results(RunRecord("none")) == ""


def test_runs_without_evaluations_or_steps_are_compared() -> None:
    assert task_results([RunRecord("a"), RunRecord("b")]) == ""
