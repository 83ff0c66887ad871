"""Figures of windows that stages set, one for each kind of layer; `metrics.jsonl` has them by kind."""

from dataclasses import replace

from train.report.axes import Figure
from train.report.record import RunRecord
from train.report.rows import finite_value, mapping
from train.report.step_figures import schedule_figure


def window_figures(record: RunRecord) -> list[Figure]:
    """Returns a figure for each kind of layer whose window a stage sets; without traces if it never changes.

    Steps of stages that leave the model's window are not in it.
    """
    kinds = dict.fromkeys(kind for row in record.steps for kind in mapping(row, "windows"))
    return [_figure(record, kind) for kind in kinds]


def _figure(record: RunRecord, kind: str) -> Figure:
    key = f"window_{kind}"
    windows = [finite_value(mapping(row, "windows"), kind) for row in record.steps]
    steps = tuple(row | {key: keys} for row, keys in zip(record.steps, windows, strict=True))
    return schedule_figure(replace(record, steps=steps), key, f"Window of {kind}")
