"""Common parts of the report's figures, as plain plotly JSON: axes, stage bands, lines per stage.

Every curve over training has `tokens_seen` on its x axis, one trace per stage in that stage's
colour and the same stage bands in the background. Colours are names such as "@stage0"; the page looks them up in
its style sheet, so one figure serves the light and the dark theme. Non-finite numbers become gaps.
"""

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from train.report.record import RunRecord
from train.report.rows import Row, finite_value, known, rounded

MAX_POINTS = 1500  # drawn per figure; a longer run shows every k-th step
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 58, 14, 24, 44
LABEL_GAP = 15  # pixels between two labels in the right margin


@dataclass(frozen=True)
class Figure:
    """One plot with its texts. title: the finding. unit: the quantity on the vertical axis."""

    key: str
    title: str
    unit: str
    data: list[Row]
    layout: Row
    wide: bool = False
    height: int = 260


def smooth(values: Sequence[float | None], width: int) -> list[float | None]:
    """Returns a local linear fit over `width` neighbours of each point, evaluated at that point.

    Unlike a moving mean it has no bias at the ends, where neighbours lie on one side only. Missing
    values are ignored; the result is None where the window holds no value.
    """
    # Prefix sums of 1, x, y, x*x, x*y over the known points: every window costs two lookups.
    sums: list[tuple[float, ...]] = [(0.0,) * 5]
    for x, y in enumerate(values):
        point = (1.0, x, y, x * x, x * y) if y is not None else (0.0,) * 5
        sums.append(tuple(map(sum, zip(sums[-1], point, strict=True))))
    half, fitted = width // 2, list[float | None]()
    for x in range(len(values)):
        ends = sums[max(0, x - half)], sums[min(len(values), x + half + 1)]
        count, sx, sy, sxx, sxy = (after - before for before, after in zip(*ends, strict=True))
        spread_x = sxx * count - sx * sx
        slope = (sxy * count - sx * sy) / spread_x if spread_x > 0.5 else 0.0
        fitted.append(sy / count + slope * (x - sx / count) if count else None)
    return fitted


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Moves label positions upwards until neighbours are at least `gap` apart; keeps their order."""
    moved = list(positions)
    order = sorted(range(len(moved)), key=lambda index: moved[index])
    for lower, upper in pairwise(order):
        moved[upper] = max(moved[upper], moved[lower] + gap)
    return moved


def layout_over_tokens(record: RunRecord, y_axis: Row, right: int = MARGIN_RIGHT) -> Row:
    """Returns axes over tokens seen, with a band, a boundary line and a label for every stage."""
    shapes, labels = list[Row](), list[Row]()
    for stage, start, end in record.spans():
        colour = record.colour(stage)
        box = {"xref": "x", "yref": "paper", "y0": 0, "y1": 1, "layer": "below"}
        shapes.append(
            {**box, "type": "rect", "x0": start, "x1": end, "fillcolor": colour, "opacity": 0.06}
            | {"line": {"width": 0}}
        )
        if start > 0:
            line = {"width": 1, "color": "@rule", "dash": "dot"}
            shapes.append({**box, "type": "line", "x0": start, "x1": start, "line": line})
        labels.append(
            {"name": "stage", "text": html.escape(stage), "showarrow": False, "xref": "x"}
            | {"x": (start + end) / 2, "yref": "paper", "y": 1, "yanchor": "bottom"}
            | {"font": {"size": 12, "color": colour}}
        )
    ends = [*known(record.steps[-1:], "tokens_seen"), *known(record.evaluations, "tokens_seen")]
    end = max(ends, default=1.0)
    x_axis = {"title": {"text": "tokens seen"}, "range": [0, end * 1.005], "exponentformat": "B"}
    return base_layout(x_axis, y_axis, right) | {"shapes": shapes, "annotations": labels}


def base_layout(x_axis: Row, y_axis: Row, right: int = MARGIN_RIGHT) -> Row:
    """Returns the layout of all figures: transparent background, light grid, no legend, margins for ticks."""
    quiet = {"gridcolor": "@grid", "zeroline": False, "linecolor": "@rule", "tickcolor": "@rule"}
    quiet = quiet | {"automargin": False, "minexponent": 3}
    title = {"font": {"size": 12, "color": "@muted"}, "standoff": 8}
    x_axis = x_axis | {"title": title | x_axis.get("title", {}), "showgrid": False, "nticks": 8}
    return {
        "margin": {"l": MARGIN_LEFT, "r": right, "t": MARGIN_TOP, "b": MARGIN_BOTTOM},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12, "color": "@muted"},
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@rule", "align": "left"}
        | {"font": {"color": "@ink", "size": 12}},
        "hovermode": "x",
        "showlegend": False,
        "xaxis": quiet | {"showline": True, "ticks": "outside", "ticklen": 4} | x_axis,
        "yaxis": quiet | {"exponentformat": "B", "nticks": 6} | y_axis,
    }


def stage_lines(
    record: RunRecord, key: str, show: Callable[[float], str], what: str, *, smoothed: bool = False
) -> list[Row]:
    """Returns one line per stage of `key`; `smoothed`: the raw line faint under a bold trend.

    Hovering always shows the exact value of that step.
    """
    stride = math.ceil(len(record.steps) / MAX_POINTS) or 1
    traces = list[Row]()
    for stage in record.stage_names:
        rows = record.steps_of(stage)[::-stride][::-1]  # always includes the stage's last step
        values = [finite_value(row, key) for row in rows]
        if all(value is None for value in values):
            continue
        width = max(1, len(rows) // 12) if smoothed else 1
        bold = smooth(values, width) if width > 1 else values
        words = ["none" if value is None else show(value) for value in values]
        line = {"color": record.colour(stage), "dash": record.dash(stage)}
        mode = "lines+markers" if len(rows) < 25 else "lines"
        x = [row["tokens_seen"] for row in rows]
        common = {"type": "scatter", "name": html.escape(stage), "mode": mode, "x": x}
        if width > 1:
            traces.append(
                {**common, "y": [rounded(value) for value in values], "opacity": 0.35}
                | {"line": line | {"width": 1}, "marker": {"size": 3, "color": line["color"]}}
                | {"hoverinfo": "skip"}
            )
        traces.append(
            {**common, "y": [rounded(value) for value in bold]}
            | {"line": line | {"width": 2}, "marker": {"size": 5, "color": line["color"]}}
            | {"customdata": [[row["step"], said] for row, said in zip(rows, words, strict=True)]}
            | {"hovertemplate": hover(stage, f"{what} %{{customdata[1]}}")}
        )
    return traces


def crosses(
    record: RunRecord, rows: Sequence[Row], what: str, place: Callable[[Row], tuple[float, str]]
) -> list[Row]:
    """Returns a cross for each of `rows`, one trace per stage. place: returns a cross's height and its text."""
    traces = list[Row]()
    for stage in record.stage_names:
        here = [row for row in rows if row["stage"] == stage]
        places = [place(row) for row in here]
        if not here:
            continue
        marker = {"symbol": "x", "size": 8, "color": "@ink", "line": {"color": "@card", "width": 1}}
        traces.append(
            {"type": "scatter", "mode": "markers", "name": f"{html.escape(stage)}, {what}"}
            | {"x": [row["tokens_seen"] for row in here], "y": [height for height, _ in places]}
            | {"marker": marker, "cliponaxis": False}
            | {
                "customdata": [
                    [row["step"], says] for row, (_, says) in zip(here, places, strict=True)
                ]
            }
            | {"hovertemplate": hover(stage, f"{what}, %{{customdata[1]}}")}
        )
    return traces


def hover(stage: str, text: str) -> str:
    return f"<b>{html.escape(stage)}</b> · step %{{customdata[0]}}<br>{text}<extra></extra>"


def log_ticks(values: Iterable[float], show: Callable[[float], str], room: float = 0.09) -> Row:
    """Returns a log axis with ticks at the values, at least `room` of the axis's length apart."""
    logs = sorted({math.log10(value) for value in values if value > 0})
    if not logs:
        return {"type": "log"}
    pad = max(0.08 * (logs[-1] - logs[0]), 0.1)
    least = room * (logs[-1] - logs[0] + 2 * pad)
    kept = [logs[0]]
    for value in logs[1:]:
        if value - kept[-1] >= least:
            kept.append(value)
    ticks = [10**value for value in kept]
    return {"type": "log", "range": [logs[0] - pad, logs[-1] + pad], "tickmode": "array"} | {
        "tickvals": ticks,
        "ticktext": [show(value) for value in ticks],
    }


def margin_labels(
    labels: list[tuple[float, str]], low: float, high: float, height: int
) -> list[Row]:
    """Returns the lines' names in the right margin, each beside its level, without overlaps."""
    pixels = (height - MARGIN_TOP - MARGIN_BOTTOM) / (high - low)
    true = [value * pixels for value, _ in labels]
    moved = spread(true, 2 * LABEL_GAP + 2)
    return [
        {"text": text, "showarrow": False, "align": "left", "xref": "paper", "x": 1, "yref": "y"}
        | {"xanchor": "left", "xshift": 10, "y": value, "yanchor": "middle", "yshift": at - here}
        | {"font": {"size": 12, "color": "@ink"}}
        for (value, text), here, at in zip(labels, true, moved, strict=True)
    ]


def line_ends(lines: list[Row]) -> list[Row]:
    """Returns each line's name above its last point, except where several lines end at the same x."""
    ends = [line["x"][-1] for line in lines]
    return [
        {"text": line["name"], "showarrow": False, "xref": "x", "yref": "y", "yshift": 15}
        | {"x": math.log10(end), "y": line["y"][-1], "font": {"color": line["line"]["color"]}}
        for line, end in zip(lines, ends, strict=True)
        if ends.count(end) == 1
    ]
