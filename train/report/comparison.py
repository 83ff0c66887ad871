"""Writes comparison.html: several runs on one page, each in its own colour, and their configurations' differences."""

import html
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from data.files import write_durably
from train.report.axes import Figure, base_layout, hover, smooth
from train.report.differences import differing, key_table
from train.report.loss_figures import bucket_line, position_layout
from train.report.model_words import parameters
from train.report.overview import quarter_gain, standing
from train.report.page import document, drawn, grid
from train.report.position_fit import position_buckets
from train.report.record import RunRecord, read_run, total_seconds
from train.report.rows import Row, finite_value, known, rounded, weighted_mean
from train.report.run_curves import common_axis, step_figures, style, thinned
from train.report.run_prompts import prompt_figures
from train.report.stage_table import chip
from train.report.tables import html_table, paragraph
from train.report.task_results import task_results
from train.report.units import duration, moment_text, percent, short_number, signed, whole_number


def write_comparison(run_folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the page and returns its path; by default comparison.html beside the first run.

    Raises:
        ValueError: a folder is not a run's, or is given twice, or its config.yaml or a log is broken.
        OSError: the page cannot be written, or config.yaml or a log of a run cannot be read.
    """
    folders = [folder.resolve() for folder in run_folders]
    twice = [given for given, at in zip(run_folders, folders, strict=True) if folders.count(at) > 1]
    if twice:
        raise ValueError(f"run={twice[0]}: is named twice; give different runs")
    path = output or folders[0].parent / "comparison.html"
    write_durably(path, render([read_run(folder) for folder in run_folders]))
    return path


def render(records: Sequence[RunRecord]) -> str:
    """Returns the whole page. Runs of the same name are numbered."""
    records = [
        replace(record, name=name) for record, name in zip(records, _names(records), strict=True)
    ]
    loss = drawn(loss_figure(records), position_figure(records))
    course, tasks = drawn(*step_figures(records)), drawn(*prompt_figures(records))
    sections = {
        "Results": _results(records),
        "Loss": grid(loss),
        "Evaluations": task_results(records) + grid(tasks),
        "Course": grid(course),
        "Differences": _differences(records),
    }
    figures = [*loss, *tasks, *course]
    legend = "".join(chip(record.name, index) for index, record in enumerate(records))
    title = (
        " and ".join(record.name for record in records)
        if len(records) < 4
        else f"{len(records)} runs"
    )
    head = paragraph(f"Compared {moment_text(datetime.now(UTC))}.", "standing")
    return document(title, head, legend, sections, figures)


def _names(records: Sequence[RunRecord]) -> list[str]:
    found = list[str]()
    for record in records:
        again = sum(name.partition(" (")[0] == record.name for name in found)
        found.append(f"{record.name} ({again + 1})" if again else record.name)
    return found


def _results(records: Sequence[RunRecord]) -> str:
    rows = [_result(record) for record in records]
    cells = [
        [chip(record.name, index), *map(html.escape, row.values())]
        for index, (record, row) in enumerate(zip(records, rows, strict=True))
    ]
    return html_table(["Run", *rows[0]], cells)


def _result(record: RunRecord) -> dict[str, str]:
    """Returns the results of one run."""
    newest = record.evaluations[-1] if record.evaluations else Row()
    loss, bigram = finite_value(newest, "loss"), finite_value(newest, "bigram_loss")
    gain, trained = quarter_gain(newest), known(record.steps, "loss")
    length = finite_value(newest, "sequence_length")
    count = finite_value(record.summary, "parameters") or parameters(record)
    speed = weighted_mean(record.steps, "tokens_per_second", "step_seconds")
    share = weighted_mean(record.steps, "mfu", "step_seconds")
    seconds = total_seconds(record.steps)
    return {
        "Held-out loss": f"{loss:.3f}" if loss is not None else "",
        "At length": whole_number(length) if length else "",
        "Against bigram": signed(loss - bigram) if loss is not None and bigram is not None else "",
        "Last less first quarter": signed(gain) if gain is not None else "",
        "Training loss, last step": f"{trained[-1]:.3f}" if trained else "",
        "Tokens": short_number(record.tokens_seen),
        "Parameters": short_number(count) if count else "",
        "Time in steps": duration(seconds) if seconds else "",
        "Tokens/s": short_number(speed) if speed else "",
        "MFU": percent(share) if share is not None else "",
        "Standing": standing(record, running=False).partition(",")[0],
    }


def loss_figure(records: Sequence[RunRecord]) -> Figure:
    """Returns the trend of every run's training loss over tokens, and its held-out losses as points."""
    data, levels = list[Row](), list[float]()
    for index, record in enumerate(records):
        rows = thinned(records, record, "loss")
        trend = smooth(known(rows, "loss"), max(1, len(rows) // 30))
        evaluated = [row for row in record.evaluations if finite_value(row, "loss") is not None]
        for mode, points, heights in (
            ("lines", rows, trend),
            ("markers", evaluated, known(evaluated, "loss")),
        ):
            what = "training loss" if mode == "lines" else "held-out loss"
            levels += [height for height in heights if height is not None]
            if points:
                data.append(
                    {
                        "type": "scatter",
                        "mode": mode,
                        "name": html.escape(record.name),
                        "line": style(index),
                    }
                    | {
                        "x": [row["tokens_seen"] for row in points],
                        "y": list(map(rounded, heights)),
                    }
                    | {"marker": {"size": 10, "symbol": "diamond", "color": style(index)["color"]}}
                    | {
                        "customdata": [
                            [row["step"], f"{finite_value(row, 'loss'):.4f}"] for row in points
                        ]
                    }
                    | {"hovertemplate": hover(record.name, f"{what} %{{customdata[1]}}")}
                )
    layout = base_layout(common_axis(records, "tokens_seen"), {})
    ends = [(known(record.evaluations[-1:], "loss"), record.name) for record in records]
    best = sorted((losses[0], name) for losses, name in ends if losses)
    title = "Loss over tokens"
    if len(best) > 1:
        (first, name), (second, other) = best[:2]
        title = f"{name} ends lowest, at {first:.3f}; {other} follows, {signed(second - first)}"
    unit = "nats per token · lines: trend of the training loss, points: held-out"
    return Figure("loss", title, unit, data, layout, wide=True, height=380)


def position_figure(records: Sequence[RunRecord]) -> Figure:
    """Returns the held-out loss by position in the newest evaluation of every run."""
    data, edges = list[Row](), list[float]()
    for index, record in enumerate(records):
        buckets = position_buckets(record.evaluations[-1] if record.evaluations else Row())
        if not buckets:
            continue
        edges += [
            edge
            for bucket in buckets
            for edge in (bucket["start"] or bucket["end"] / 2, bucket["end"])
        ]
        words = [
            f"positions {b['start']:,} to {b['end'] - 1:,}<br>loss {b['loss']:.4f}" for b in buckets
        ]
        data.append(
            bucket_line(buckets, "loss")
            | {"name": html.escape(record.name), "mode": "lines+markers", "line": style(index)}
            | {"marker": {"size": 7, "color": style(index)["color"]}, "customdata": words}
            | {
                "hovertemplate": f"<b>{html.escape(record.name)}</b><br>%{{customdata}}<extra></extra>"
            }
        )
    layout = position_layout(records[0], edges)
    unit = "held-out nats per token in the newest evaluation, by position in the segment"
    return Figure("position", "Loss by position", unit, data, layout, wide=True, height=340)


def _differences(records: Sequence[RunRecord]) -> str:
    rows = differing([record.config for record in records])
    if not rows:
        return paragraph("The configurations are the same but for their names.", "unit")
    return key_table(["Key", *(record.name for record in records)], rows)
