"""Heat maps of long-context tasks: depth x length for each stage, and task x length for all tasks."""

import html
import math
from collections.abc import Sequence

from train.records.prompt_rows import Score, score_of, scores_by_length
from train.report.axes import MARGIN_BOTTOM, MARGIN_LEFT, Figure, base_layout
from train.report.record import RunRecord
from train.report.rows import Row, finite_value, mappings, rounded
from train.report.units import percent, whole_number

_HITS = [[0, "@part4"], [1, "@stage0"]]
_LOSS = [[0, "@stage2"], [1, "@part4"]]
# Pixels: of a line of cells, of the space under a panel for its ticks, above it for its name.
_LINE, _LEAST_PANEL, _BELOW, _ABOVE = 26, 78, 30, 24
_STAGES_A_ROW = 3
# More columns than these have no room for numbers in their cells.
_MOST_NUMBERS = 8


def map_figure(record: RunRecord, task: str, number: int) -> Figure:
    """Returns the task's share of hits and loss by depth and length, two maps for the newest evaluation of each stage.

    number: of the task, for the key of the figure.
    """
    newest = {row["stage"]: row for row in record.prompt_tasks[task]}
    stages = [stage for stage in record.stage_names if stage in newest]
    grids = {stage: _grid(newest[stage]) for stage in stages}
    stages = [stage for stage in stages if grids[stage]]
    losses = [s.loss for stage in stages for s in grids[stage].values() if s.loss is not None]
    columns = min(len(stages), _STAGES_A_ROW) or 1
    rows = 2 * math.ceil(len(stages) / columns)
    depths = max((len({d for _, d in grids[stage]}) for stage in stages), default=1)
    panel = max(_LEAST_PANEL, _LINE * depths)
    height = rows * (panel + _BELOW + _ABOVE)
    layout = base_layout({}, {}) | {"annotations": [], "shapes": [], "hovermode": "closest"}
    layout["margin"] = {"l": MARGIN_LEFT + 6, "r": 14, "t": 0, "b": 0}
    data = list[Row]()
    for index, stage in enumerate(stages):
        for view in (0, 1):
            row = 2 * (index // columns) + view
            top = 1 - (row * (panel + _BELOW + _ABOVE) + _ABOVE) / height
            place = {
                "x": _part(index % columns, columns),
                "y": [max(0.0, top - panel / height), top],
            }
            trace = _map(grids[stage], view, max(losses, default=0.0))
            _put(layout, trace, len(data) + 1, place)
            data.append(trace)
            _name(layout, len(data), f"{stage} · {trace['name']}")
            _mark_trained(
                layout, len(data), trace["x"], finite_value(newest[stage], "trained_length")
            )
    unit = (
        "share of hits and loss of the answer, by depth of what is asked for and tokens of prompt and answer"
        " · dashed: trained length"
    )
    title = map_title(task, newest[stages[-1]] if stages else Row())
    return Figure(f"map{number}", title, unit, data, layout, len(stages) > 1, round(height))


def _grid(row: Row) -> dict[tuple[int, float | None], Score]:
    """Returns the scores of the row's valid cells by length and depth."""
    found = {}
    for cell in mappings(row, "cells"):
        score, depth = score_of(cell), finite_value(cell, "depth")
        length = cell.get("length")
        if score is not None and type(length) is int and length > 0:
            found[length, depth] = score
    return found


def _map(grid: dict[tuple[int, float | None], Score], view: int, most: float) -> Row:
    lengths = sorted({length for length, _ in grid})
    depths = sorted({depth for _, depth in grid}, key=lambda depth: -1 if depth is None else depth)
    lines = [[grid.get((length, depth)) for length in lengths] for depth in depths]
    values = [
        [None if one is None else (one.share, one.loss)[view] for one in line] for line in lines
    ]
    words = [
        ["" if one is None else f"{one:.2f}" if view else percent(one) for one in line]
        for line in values
    ]
    of = [
        [f"{one.hits:g} of {one.prompts} prompts" if one else "" for one in line] for line in lines
    ]
    return {
        "type": "heatmap",
        "name": ("hits", "loss")[view],
        "x": [whole_number(length) for length in lengths],
        "y": ["any" if depth is None else f"{depth:.0%}" for depth in depths],
        "z": [[rounded(value) for value in line] for line in values],
        "text": words,
        **({"texttemplate": "%{text}"} if len(lengths) <= _MOST_NUMBERS else {}),
        "customdata": of,
        "zmin": 0,
        "zmax": (1, most or 1.0)[view],
        "colorscale": (_HITS, _LOSS)[view],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "length %{x}, depth %{y}<br>%{text}, %{customdata}<extra></extra>",
    }


def _part(index: int, count: int, gap: float = 0.07) -> list[float]:
    """Returns the part of the width that belongs to a panel."""
    width = (1 - gap * (count - 1)) / count
    return [index * (width + gap), index * (width + gap) + width]


def _put(layout: Row, trace: Row, number: int, place: Row) -> None:
    """Gives a trace axes of its own at a place of the figure."""
    end = "" if number == 1 else str(number)
    trace |= {"xaxis": f"x{end}", "yaxis": f"y{end}"}
    common = {"type": "category", "showgrid": False, "showline": False, "ticks": ""}
    layout[f"xaxis{end}"] = layout["xaxis"] | common | {"domain": place["x"], "anchor": f"y{end}"}
    layout[f"yaxis{end}"] = (
        layout["yaxis"]
        | common
        | {"domain": place["y"], "anchor": f"x{end}", "autorange": "reversed"}
    )


def _name(layout: Row, number: int, text: str) -> None:
    end = "" if number == 1 else str(number)
    layout["annotations"].append(
        {"text": html.escape(text), "showarrow": False, "xref": f"x{end} domain"}
        | {"yref": f"y{end} domain", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"}
        | {"font": {"size": 12, "color": "@ink"}}
    )


def _mark_trained(layout: Row, number: int, lengths: Sequence[str], trained: float | None) -> None:
    """Draws a line between the lengths up to the trained one and those beyond, if there are both."""
    within = sum(float(length.replace(",", "")) <= (trained or 0) for length in lengths)
    if not 0 < within < len(lengths):
        return
    end = "" if number == 1 else str(number)
    layout["shapes"].append(
        {"type": "line", "xref": f"x{end}", "yref": f"y{end} domain", "y0": 0, "y1": 1}
        | {"x0": within - 0.5, "x1": within - 0.5, "line": {"color": "@ink", "width": 1.5}}
        | {"line": {"color": "@ink", "width": 1.5, "dash": "dash"}}
    )


def map_title(task: str, row: Row) -> str:
    """Returns the shares at the shortest and the longest length as a sentence."""
    found = scores_by_length(mappings(row, "cells"))
    if not found:
        return task
    short, long = min(found), max(found)
    text = f"{task}: {percent(found[short].share)} at {whole_number(short)} tokens"
    if long == short:
        return text
    return f"{text}, {percent(found[long].share)} at {whole_number(long)}"


def tasks_figure(record: RunRecord) -> Figure:
    """Returns the share of hits of every task at every length, in its newest evaluation; empty for less than two."""
    scores = {
        name: scores_by_length(mappings(rows[-1], "cells"))
        for name, rows in record.prompt_tasks.items()
    }
    scores = {name: found for name, found in scores.items() if found}
    lengths = sorted({length for found in scores.values() for length in found})
    values = [
        [found[length].share if length in found else None for length in lengths]
        for found in scores.values()
    ]
    names = [html.escape(name) for name in scores]
    trace: Row = {
        "type": "heatmap",
        "name": "hits",
        "x": [whole_number(length) for length in lengths],
        "y": names,
        "z": [[rounded(value) for value in line] for line in values],
        "text": [["" if value is None else percent(value) for value in line] for line in values],
        "texttemplate": "%{text}" if len(lengths) <= 2 * _MOST_NUMBERS else "",
        "zmin": 0,
        "zmax": 1,
        "colorscale": _HITS,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "<b>%{y}</b><br>length %{x}: %{text}<extra></extra>",
    }
    layout = base_layout({}, {}) | {"annotations": [], "shapes": [], "hovermode": "closest"}
    _put(layout, trace, 1, {"x": [0, 1], "y": [0, 1]})
    widest = max(map(len, scores), default=0)
    layout["margin"] = {"l": min(240, 24 + 7 * widest), "r": 14, "t": 8, "b": MARGIN_BOTTOM}
    layout["xaxis"] |= {"title": layout["xaxis"]["title"] | {"text": "tokens of prompt and answer"}}
    layout["yaxis"] |= {"nticks": len(names)}
    newest = [rows[-1] for rows in record.prompt_tasks.values()]
    trained = [value for row in newest if (value := finite_value(row, "trained_length"))]
    _mark_trained(layout, 1, trace["x"], max(trained, default=None))
    data = [trace] if len(scores) > 1 else []
    height = 8 + MARGIN_BOTTOM + _LINE * max(2, len(scores))
    unit = "share of the prompts whose answer is predicted, newest evaluations · dashed: trained length"
    return Figure("tasks", "Long-context tasks by length", unit, data, layout, True, height)
