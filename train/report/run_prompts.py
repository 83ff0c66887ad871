"""Figures of long-context tasks of several runs: a line for each run, by length and over training."""

import html
from collections.abc import Sequence

from train.records.prompt_rows import scores_by_length
from train.report.axes import Figure, base_layout, hover
from train.report.record import RunRecord
from train.report.rows import Row, mappings
from train.report.run_curves import common_axis, run_line
from train.report.units import percent, whole_number


def prompt_figures(records: Sequence[RunRecord]) -> list[Figure]:
    """Returns, for each long-context task of several runs, the share of hits by length and over training."""
    tasks = dict.fromkeys(name for record in records for name in record.prompt_tasks)
    found = list[Figure]()
    for number, task in enumerate(tasks):
        found.append(_prompt_figure(records, task, number))
        found.append(_course_figure(records, task, number))
    return [figure for figure in found if len(figure.data) > 1]


def _course_figure(records: Sequence[RunRecord], task: str, number: int) -> Figure:
    """Returns the share of hits over tokens at the longest length that all runs with the task have."""
    scores = {
        index: [
            (row, scores_by_length(mappings(row, "cells"))) for row in record.prompt_tasks[task]
        ]
        for index, record in enumerate(records)
        if task in record.prompt_tasks
    }
    known_to = [{length for _, found in rows for length in found} for rows in scores.values()]
    length = max(set.intersection(*known_to), default=0)
    data = list[Row]()
    for index, rows in scores.items():
        points = [(row, found[length]) for row, found in rows if length in found]
        if points:
            words = [[row["step"], f"{percent(one.share)} of {one.prompts}"] for row, one in points]
            shares = [one.share for _, one in points]
            data.append(
                run_line(
                    index, records[index].name, [row for row, _ in points], "tokens_seen", shares
                )
                | {"mode": "lines+markers", "customdata": words, "cliponaxis": False}
                | {"hovertemplate": hover(records[index].name, "%{customdata[1]} prompts")}
            )
    axis = common_axis(records, "tokens_seen")
    layout = base_layout(axis, {"range": [-0.03, 1.03], "tickformat": ".0%"})
    unit = (
        f"share of hits at {whole_number(length)} tokens, the longest length of all, over training"
    )
    return Figure(f"course{number}", f"{task} over training", unit, data, layout)


def _prompt_figure(records: Sequence[RunRecord], task: str, number: int) -> Figure:
    data, lengths = list[Row](), set[int]()
    for index, record in enumerate(records):
        rows = record.prompt_tasks.get(task)
        scores = scores_by_length(mappings(rows[-1], "cells")) if rows else {}
        if not scores:
            continue
        lengths |= scores.keys()
        words = [
            f"{percent(one.share)} of {one.prompts} prompts"
            + (f", loss {one.loss:.4f}" if one.loss is not None else "")
            for one in scores.values()
        ]
        points = [{"length": length} for length in scores]
        name = html.escape(record.name)
        data.append(
            run_line(index, record.name, points, "length", [one.share for one in scores.values()])
            | {"mode": "lines+markers", "customdata": words, "cliponaxis": False}
            | {"hovertemplate": f"<b>{name}</b><br>length %{{x}}: %{{customdata}}<extra></extra>"}
        )
    ticks = sorted(lengths)
    axis: Row = {"type": "log", "title": {"text": "tokens of prompt and answer (log scale)"}}
    axis |= {"tickmode": "array", "tickvals": ticks, "tickangle": 0}
    axis |= {"ticktext": [whole_number(length) for length in ticks]}
    layout = base_layout(axis, {"range": [-0.03, 1.03], "tickformat": ".0%"}, right=34)
    layout |= {"hovermode": "closest"}
    unit = "share of the prompts whose answer is predicted, newest evaluation"
    return Figure(f"prompts{number}", task, unit, data, layout)
