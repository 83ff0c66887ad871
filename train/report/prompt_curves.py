"""Curves of a long-context task over training: share of hits and loss of the answers, a line for each length."""

from train.records.prompt_rows import Score, scores_by_length
from train.report.axes import Figure, hover, layout_over_tokens
from train.report.record import NUM_COLOURS, RunRecord
from train.report.rows import Row, finite_value, mappings, rounded
from train.report.units import percent, whole_number

_DASHES = ("solid", "dash", "dot", "dashdot")


def curves_figure(record: RunRecord, task: str, number: int) -> Figure:
    """Returns the task's share of hits (above) and loss (below) over tokens seen; empty with one evaluation only.

    number: of the task, for the key of the figure.
    """
    rows = record.prompt_tasks[task]
    scores = [scores_by_length(mappings(row, "cells")) for row in rows]
    lengths = sorted({length for found in scores for length in found})
    data = list[Row]()
    for index, length in enumerate(lengths):
        points = [
            (row, found[length]) for row, found in zip(rows, scores, strict=True) if length in found
        ]
        data += _lines(index, length, points)
    layout = layout_over_tokens(record, {"range": [-0.03, 1.03], "tickformat": ".0%"})
    layout["yaxis2"] = layout["yaxis"] | {"domain": [0, 0.44], "tickformat": "", "anchor": "x"}
    layout["yaxis2"] |= {"range": [0, 1.05 * _most(scores)], "title": {"text": "loss"}}
    layout["yaxis"] |= {"domain": [0.54, 1], "title": {"text": "hits"}}
    layout["xaxis"] |= {"anchor": "y2"}
    ends = [float(row["tokens_seen"]) for row in rows]
    layout["xaxis"]["range"][1] = max(layout["xaxis"]["range"][1], 1.005 * max(ends))
    legend = {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"}
    layout |= {
        "showlegend": True,
        "legend": legend,
        "margin": layout["margin"] | {"b": 82, "l": 62},
    }
    unit = "share of the prompts whose answer is predicted, and nats per token of the answer, by length"
    title = f"{task} over training"
    data = data if len(set(ends)) > 1 else []
    wide = len({row["stage"] for row in rows}) > 1
    return Figure(f"curves{number}", title, unit, data, layout, wide, 400)


def _most(scores: list[dict[int, Score]]) -> float:
    losses = [one.loss for found in scores for one in found.values() if one.loss is not None]
    return max(losses, default=0.0) or 1.0


def _lines(index: int, length: int, points: list[tuple[Row, Score]]) -> list[Row]:
    """Returns the two lines of one length. index: selects colour and dashes."""
    colour = f"@source{index % NUM_COLOURS}"
    line = {"color": colour, "width": 2, "dash": _DASHES[index // NUM_COLOURS % len(_DASHES)]}
    name, found = whole_number(length), list[Row]()
    for axis, what in (("y", "hits"), ("y2", "loss")):
        drawn = [
            (row, one.share if axis == "y" else one.loss)
            for row, one in points
            if axis == "y" or one.loss is not None
        ]
        words = [
            percent(value) if axis == "y" else f"{value:.4f}"
            for _, value in drawn
            if value is not None
        ]
        found.append(
            {"type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name}
            | {"showlegend": axis == "y", "yaxis": axis, "cliponaxis": False}
            | {"x": [row["tokens_seen"] for row, _ in drawn]}
            | {"y": [rounded(value) for _, value in drawn], "line": line}
            | {"marker": {"size": 6, "color": colour}}
            | {
                "customdata": [
                    [finite_value(row, "step"), word]
                    for (row, _), word in zip(drawn, words, strict=True)
                ]
            }
            | {"hovertemplate": hover(f"length {name}", f"{what} %{{customdata[1]}}")}
        )
    return found
