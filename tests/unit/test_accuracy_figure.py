"""The report's curve of accuracy: a line for each length, greedy ones dashed; damaged rows draw nothing."""

from typing import Any

from train.report.accuracy_figure import accuracy_figure
from train.report.page import sections_of
from train.report.record import RunRecord


def part(length: int, accuracies: list[float], **more: Any) -> dict[str, Any]:
    edges = [0, 32, 64, 128, 256][: len(accuracies) + 1]
    buckets = [
        {"start": start, "end": end, "tokens": 9, "accuracy": accuracy}
        for start, end, accuracy in zip(edges, edges[1:], accuracies, strict=False)
    ]
    return {"length": length, "position_buckets": buckets, "greedy": None, **more}


def record(*lengths: Any) -> RunRecord:
    row = {"step": 3, "stage": "s", "tokens_seen": 9, "trained_length": 64, "lengths": [*lengths]}
    return RunRecord("run", accuracies=(row,))


def test_a_line_for_each_length_has_the_accuracy_of_its_buckets() -> None:
    greedy = part(256, [0.875, 0.75, 0.5, 0.25])
    both = {"accuracy_below": 0.984, "accuracy_from": 0.5}
    figure = accuracy_figure(
        record(part(64, [1.0, 0.75]), part(256, [1.0, 0.75, 0.5, 0.5], greedy=greedy, **both))
    )
    assert figure.title == "At length 256 accuracy is 98.4% below place 64, 50.0% from it on"
    assert [(line["name"], line["line"]["dash"], line["y"]) for line in figure.data] == [
        ("64", "solid", [1.0, 0.75]),
        ("256", "solid", [1.0, 0.75, 0.5, 0.5]),
        ("256 greedy", "dash", [0.875, 0.75, 0.5, 0.25]),
    ]
    assert figure.data[1]["line"]["color"] == figure.data[2]["line"]["color"]
    labels = [label["text"] for label in figure.layout["annotations"]]
    assert labels == ["trained to 64", "64", "256"]
    assert "places 64 to 127<br>50.0%" in figure.data[1]["customdata"]


def test_a_run_without_accuracy_has_no_curve() -> None:
    assert not accuracy_figure(RunRecord("run")).data
    assert "accuracy" not in [figure.key for figure in sections_of(RunRecord("run"))[1]]


def test_damaged_rows_draw_what_can_be_drawn() -> None:
    hostile = [None, {"length": "x"}, {"length": 64, "position_buckets": [{"start": -1, "end": 2}]}]
    figure = accuracy_figure(record(*hostile, part(64, [float("nan"), 0.5], greedy=7)))
    assert [line["y"] for line in figure.data] == [[0.5]]
    assert figure.title == "Accuracy"
    assert accuracy_figure(RunRecord("run", accuracies=({"lengths": 3},))).data == []
