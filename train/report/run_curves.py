"""Figures of several runs on common axes: a line for each run, over tokens seen or over steps."""

import html
from collections.abc import Callable, Sequence

from train.report.axes import MAX_POINTS, Figure, base_layout, hover, smooth
from train.report.record import NUM_COLOURS, RunRecord
from train.report.rows import Row, finite_value, known, rounded
from train.report.units import short_number

_DASHES = ("solid", "dash", "dot", "dashdot")
_AXES = {"tokens_seen": "tokens seen", "step": "step"}


def style(index: int) -> Row:
    """Returns colour and dashes of the run of this number, the same in every figure."""
    return {
        "color": f"@stage{index % NUM_COLOURS}",
        "dash": _DASHES[index // NUM_COLOURS % len(_DASHES)],
        "width": 2,
    }


def thinned(records: Sequence[RunRecord], record: RunRecord, key: str) -> list[Row]:
    """Returns the steps of a run that have a finite value of `key`, as many as fit the figure, the last among them."""
    rows = [row for row in record.steps if finite_value(row, key) is not None]
    return rows[:: -max(1, len(rows) * len(records) // MAX_POINTS)][::-1]


def run_line(
    index: int, name: str, rows: Sequence[Row], over: str, heights: Sequence[float]
) -> Row:
    """Returns a line of one run. rows: its points; heights: of each; over: the key of the horizontal axis."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": html.escape(name),
        "line": style(index),
        "marker": {"size": 7, "color": style(index)["color"]},
        "x": [row[over] for row in rows],
        "y": list(map(rounded, heights)),
    }


def common_axis(records: Sequence[RunRecord], over: str) -> Row:
    """Returns the horizontal axis from 0 to the end of the longest run. over: tokens_seen or step."""
    rows = [row for one in records for row in (*one.steps, *one.evaluations, *one.more)]
    end = max(known(rows, over), default=1.0)
    return {"title": {"text": _AXES[over]}, "range": [0, end * 1.01], "exponentformat": "B"}


def step_figure(
    records: Sequence[RunRecord],
    key: str,
    title: str,
    unit: str,
    show: Callable[[float], str],
    over: str = "tokens_seen",
) -> Figure:
    """Returns the trend of a number of metrics.jsonl, a line for each run; empty if less than two runs have it."""
    data = list[Row]()
    for index, record in enumerate(records):
        rows = thinned(records, record, key)
        if not rows:
            continue
        values = known(rows, key)
        trend = [value for value in smooth(values, max(1, len(rows) // 30)) if value is not None]
        words = [[row["step"], show(value)] for row, value in zip(rows, values, strict=True)]
        data.append(
            run_line(index, record.name, rows, over, trend)
            | {"customdata": words, "hovertemplate": hover(record.name, "%{customdata[1]}")}
        )
    layout = base_layout(common_axis(records, over), {})
    return Figure(f"{key}_{over}", title, unit, data if len(data) > 1 else [], layout)


def step_figures(records: Sequence[RunRecord]) -> list[Figure]:
    """Returns the training loss over steps, and rates, norms and speeds over tokens."""
    return [
        step_figure(
            *(records, "loss", "Training loss over steps", "trend, nats per token"),
            *(lambda value: f"training loss {value:.4f}", "step"),
        ),
        step_figure(
            *(records, "gradient_norm", "Gradient norm", "trend, before clipping, over tokens"),
            lambda value: f"gradient norm {value:.4g}",
        ),
        step_figure(
            *(records, "learning_rate", "Learning rate", "over tokens"),
            lambda value: f"learning rate {value:.4g}",
        ),
        step_figure(
            *(records, "tokens_per_second", "Throughput", "trend, tokens per second, over tokens"),
            lambda value: f"{short_number(value)} tokens/s",
        ),
    ]
