"""Long-context tasks in the report: effective length, tables, heat maps and curves, from rows of one and 13 tasks."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.made_run import (
    STAGES,
    Row,
    check_figures,
    made_evaluations,
    made_prompts,
    made_steps,
    page_of,
    write_run,
)
from train.records.prompt_rows import Score, effective_length, scores_by_length
from train.report.page import sections_of
from train.report.prompt_section import difference_words, task_table
from train.report.record import RunRecord

THIRTEEN = [f"task_{number}" for number in range(13)]


def cell(length: int, depth: float | None, hits: int, loss: float | None = 1.0, **more: Any) -> Row:
    return {"length": length, "depth": depth, "prompts": 10, "hits": hits, "loss": loss, **more}


@pytest.mark.parametrize(
    ("shares", "part", "expected"),
    [
        ({1024: 1.0, 2048: 0.9, 4096: 0.85, 8192: 0.84}, 0.85, 4096),
        ({4096: 0.85, 1024: 1.0}, 0.85, 4096),  # the base is the shortest, in any order
        ({1024: 0.5, 2048: 0.2, 4096: 0.45}, 0.85, 4096),  # the longest, also behind a dip
        ({1024: 0.5, 2048: 0.3}, 0.85, 1024),
        ({1024: 0.5, 2048: 0.3}, 0.6, 2048),
        ({1024: 0.0, 2048: 1.0}, 0.85, None),  # nothing at the base length to be kept
        ({}, 0.85, None),
    ],
)
def test_effective_length_is_the_longest_that_keeps_a_part_of_the_base(
    shares: dict[int, float], part: float, expected: int | None
) -> None:
    assert effective_length(shares, part) == expected


def test_scores_of_a_length_are_over_all_depths_and_broken_cells_are_left_out() -> None:
    cells = [cell(64, 0.0, 4, 1.0), cell(64, 1.0, 8, 2.0), cell(32, None, 10, None)]
    broken: list[Any] = [{}, cell(64, 0.5, 11), cell(-1, 0.5, 1), {"length": 64, "prompts": 0}]
    assert scores_by_length(cells + broken) == {32: Score(10, 10, None), 64: Score(20, 12, 1.5)}
    assert scores_by_length([cell(64, 0.0, 4, removed={"hits": 1})], "removed") == {
        64: Score(10, 1, None)
    }


def record_of(cells: list[Row], stage: str = "long", **more: Any) -> RunRecord:
    row = {"step": 7, "stage": stage, "tokens_seen": 9, "task": "passkey", "kind": "prompts"}
    return RunRecord("made", more=(row | {"trained_length": 64, "cells": cells} | more,))


def test_the_heat_map_has_depth_downwards_and_length_to_the_right() -> None:
    cells = [cell(64, 1.0, 3, 0.5), cell(128, 0.0, 0, 2.5), cell(64, 0.0, 10, 0.1)]
    _, figures = sections_of(record_of(cells))
    (figure,) = [one for one in figures if one.key == "map0"]
    hits, loss = figure.data
    assert (hits["x"], hits["y"]) == (["64", "128"], ["0%", "100%"])
    assert hits["z"] == [[1.0, 0.0], [0.3, None]]
    assert loss["z"] == [[0.1, 2.5], [0.5, None]]
    assert figure.layout["yaxis"]["autorange"] == "reversed"
    (line, _) = figure.layout["shapes"]  # between 64, which was trained, and 128
    assert line["x0"] == line["x1"] == 0.5
    assert figure.title == "passkey: 65.0% at 64 tokens, 0% at 128"


def test_one_task_and_thirteen_tasks_are_drawn_at_every_stage(tmp_path: Path) -> None:
    steps = made_steps()
    evaluations = made_evaluations(steps)
    for names in (["passkey"], THIRTEEN):
        rows = evaluations + made_prompts(evaluations, names)
        page = page_of(write_run(tmp_path / str(len(names)), steps, rows))
        check_figures(page)
        assert len(page.text.encode()) < 1_500_000
        for number, name in enumerate(names):
            figure = page.figures[f"map{number}"]
            assert len(figure["data"]) == 2 * len(STAGES)
            titles = [one["text"] for one in figure["layout"]["annotations"]]
            assert titles == [f"{stage} · {what}" for stage in STAGES for what in ("hits", "loss")]
            assert f">{name} over training<" in page.text
            lines = page.figures[f"curves{number}"]["data"]
            assert {one["yaxis"] for one in lines} == {"y", "y2"}
            assert {one["name"] for one in lines} == {
                *("64", "128", "256", "512", "1,024", "2,048", "4,096", "8,192")
            }
        assert ("tasks" in page.figures) == (len(names) > 1)
        assert {key for key in page.figures if page.figures[key]} == page.places()
    grid = page.figures["tasks"]["data"][0]
    assert grid["y"] == THIRTEEN
    assert grid["x"] == ["1,024", "2,048", "4,096", "8,192"]


def test_a_single_evaluation_has_maps_and_no_curves() -> None:
    _, figures = sections_of(record_of([cell(64, 0.5, 3)]))
    assert [one.key for one in figures if one.key.startswith(("map", "curves", "tasks"))] == [
        "map0"
    ]


def test_the_table_has_controls_and_says_where_the_context_makes_no_difference() -> None:
    beside = {"last_part": {"hits": 1, "loss": 2.0}, "removed": {"hits": 0}, "swapped": {"hits": 2}}
    cells = [cell(64, 0.0, 10, **beside), cell(128, 0.0, 9, 0.25, **beside)]
    rows = record_of(cells, judged="likelihood", chance=0.25).more
    text = task_table({"passkey": rows[0]})
    for word in (
        "100.0%",
        "90.0%",
        ">128<",
        "0.250",
        "10.0%",
        ">0%<",
        "20.0%",
        "25.0%",
        "likelihood",
    ):
        assert word in text, word
    assert difference_words(cells, 128) == "+80.0 points, loss \N{MINUS SIGN}1.750"
    alike = [cell(64, 0.0, 10, last_part={"hits": 10}), cell(128, 0.0, 6, last_part={"hits": 5})]
    assert difference_words(alike, 64) == "no difference"
    assert difference_words(alike, 128) == "no difference"
    assert difference_words([cell(64, 0.0, 5)], 64) == ""


@pytest.mark.parametrize(
    "cells", [None, "x", [], [None], [{}], [{"length": 64, "prompts": 4, "hits": None}]]
)
def test_rows_without_scores_give_no_figure_and_a_row_of_the_table(cells: Any) -> None:
    sections, figures = sections_of(record_of(cells))
    assert not [one for one in figures if one.key.startswith(("map", "curves", "tasks"))]
    assert "passkey" in sections["Long context"]


def test_runs_without_such_tasks_have_no_section() -> None:
    assert sections_of(RunRecord("plain"))[0]["Long context"] == ""
