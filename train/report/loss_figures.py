"""Figures of the loss: over training, by position in a segment, by source.

Each *_figure function takes the run's record and returns one Figure whose title states the finding. The page leaves
out a figure without traces.
"""

import html
import math

from train.report.axes import (
    Figure,
    base_layout,
    crosses,
    hover,
    layout_over_tokens,
    line_ends,
    margin_labels,
    smooth,
    stage_lines,
)
from train.report.data_section import source_losses, sources
from train.report.model_words import chunks, windows
from train.report.position_fit import fit_lines, position_buckets
from train.report.record import NUM_COLOURS, RunRecord, yardstick
from train.report.rows import Row, finite_value, known, rounded, spiked
from train.report.units import short_number, whole_number

_SOURCE_POINTS = 400  # drawn per source


def loss_figure(record: RunRecord) -> Figure:
    """Returns the training loss, the held-out losses as points, and the unigram and bigram losses."""
    data = stage_lines(record, "loss", lambda value: f"{value:.4f}", "training loss", smoothed=True)
    losses, rare = sorted(known(record.steps, "loss")), len(record.steps) // 200
    levels = losses[rare : len(losses) - rare]  # rare spikes may lie outside the plot
    levels += [value for trace in data for value in trace["y"] if value and "customdata" in trace]
    for stage in record.stage_names:
        rows = [row for row in record.evaluations if row["stage"] == stage]
        rows = [row for row in rows if finite_value(row, "loss") is not None]
        if rows:
            data.append(held_out_points(record, stage, rows))
            levels += known(rows, "loss")
    labels = list[tuple[float, str]]()
    for key, dash in (("unigram_loss", "dot"), ("bigram_loss", "dash")):
        x, y = yardstick(record, key)
        if y:
            name, line = key.split("_")[0], {"color": "@muted", "width": 1.5, "dash": dash}
            data.append(
                {"type": "scatter", "name": name, "mode": "lines", "x": x, "y": y, "line": line}
                | {"hoverinfo": "skip"}
            )
            labels.append((y[-1], f"{name}<br>{y[-1]:.3f}"))
            levels += y
    newest = known(record.evaluations[-1:], "loss")
    labels += [(value, f"<b>held-out<br>{value:.3f}</b>") for value in newest]
    low, high = min(levels, default=0.0), max(levels, default=1.0)
    pad = 0.05 * (high - low) or 0.1
    layout = layout_over_tokens(record, {"range": [low - pad, high + pad]}, right=78)
    layout["annotations"] += margin_labels(labels, low - pad, high + pad, height=380)
    spikes = [row for row in record.steps if spiked(row)]
    data += crosses(
        record, spikes, "spike", lambda row: (min(row["loss"], high), f"{row['loss']:.4f}")
    )
    title = "Training loss"
    bigram = finite_value(record.evaluations[-1], "bigram_loss") if record.evaluations else None
    if newest:
        title = f"Held-out loss ends at {newest[0]:.3f}"
        if bigram is not None:
            side = "below" if newest[0] <= bigram else "above"
            title += f", {abs(newest[0] - bigram):.2f} nats {side} the bigram yardstick"
    unit = "nats per token · faint: every step, bold: their trend"
    if newest:
        unit += ", points: held-out, at the stage's own sequence length"
    unit += ", ✕: spike" if spikes else ""
    return Figure("loss", title, unit, data, layout, wide=True, height=380)


def held_out_points(record: RunRecord, stage: str, rows: list[Row]) -> Row:
    """Returns one stage's held-out losses over tokens seen, as points."""
    marker = {"size": 11, "symbol": "diamond", "color": record.colour(stage)}
    words = [f"{row['loss']:.4f}" for row in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": html.escape(stage),
        "x": [row["tokens_seen"] for row in rows],
        "y": [rounded(row["loss"]) for row in rows],
        "marker": marker | {"line": {"color": "@card", "width": 2}},
        "customdata": [[row["step"], word] for row, word in zip(rows, words, strict=True)],
        "hovertemplate": hover(stage, "held-out loss %{customdata[1]}"),
        "cliponaxis": False,
    }


def position_figure(record: RunRecord) -> Figure:
    """Returns the held-out loss by position, one line per stage, and the last stage's bigram loss."""
    data, edges, newest = list[Row](), list[float](), Row()
    for stage in record.stage_names:
        buckets = position_buckets(record.last_evaluation(stage))
        if not buckets:
            continue
        newest = record.last_evaluation(stage)
        edges += [edge for bucket in buckets for edge in (bucket_start(bucket), bucket["end"])]
        line = {"color": record.colour(stage), "dash": record.dash(stage), "width": 2}
        words = [
            f"positions {b['start']:,} to {b['end'] - 1:,}<br>loss {b['loss']:.4f}, bigram "
            + (f"{b['bigram_loss']:.4f}" if finite_value(b, "bigram_loss") is not None else "none")
            + f"<br>{short_number(finite_value(b, 'tokens') or 0)} tokens scored"
            for b in buckets
        ]
        data.append(
            bucket_line(buckets, "loss")
            | {"name": html.escape(stage), "line": line, "mode": "lines+markers"}
            | {"marker": {"size": 7, "color": line["color"]}, "customdata": words}
            | {"hovertemplate": f"<b>{html.escape(stage)}</b><br>%{{customdata}}<extra></extra>"}
        )
    names = line_ends(data)
    laws = fit_lines(
        [(record.last_evaluation(one), record.colour(one)) for one in record.stage_names]
    )
    counted = [b for b in position_buckets(newest) if finite_value(b, "bigram_loss") is not None]
    if counted:
        line = {"color": "@muted", "width": 1.5, "dash": "dash"}
        skip = {"name": "bigram", "mode": "lines", "line": line, "hoverinfo": "skip"}
        data.append(bucket_line(counted, "bigram_loss") | skip)
    data += laws
    layout = position_layout(record, edges)
    layout["annotations"] += names
    unit = "held-out nats per token, by position in the segment"
    unit += " · dashed: bigram" if counted else ""
    unit += " · dotted: fitted law" if laws else ""
    return Figure("position", position_title(newest), unit, data, layout, wide=True, height=340)


def bucket_start(bucket: Row) -> float:
    """Returns the bucket's left edge on a log axis: half its end if it starts at 0."""
    return float(bucket["start"] or bucket["end"] / 2)


def bucket_line(buckets: list[Row], key: str) -> Row:
    """Returns a line with the value of `key` at the geometric middle of each bucket."""
    x = [rounded(math.sqrt(bucket_start(bucket) * bucket["end"])) for bucket in buckets]
    return {"type": "scatter", "x": x, "y": [rounded(float(bucket[key])) for bucket in buckets]}


def position_title(evaluation: Row) -> str:
    first, last = (
        finite_value(evaluation, key) for key in ("first_quarter_loss", "last_quarter_loss")
    )
    if first is None or last is None:
        return "Loss by position"
    stage = evaluation["stage"]
    if abs(last - first) < 0.005:
        return f"After “{stage}” a segment's last quarter costs the same as its first"
    word = "less" if last < first else "more"
    return (
        f"After “{stage}” a segment's last quarter costs {abs(last - first):.3f} nats {word} "
        "than its first"
    )


def position_layout(record: RunRecord, edges: list[float]) -> Row:
    """Returns a layout with octaves on the x axis and a line at each window and chunk of the model."""
    low, high = min(edges, default=1.0), max(edges, default=1024.0)
    octaves = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
    octaves = octaves[:: math.ceil(len(octaves) / 12)]
    x_axis = {"type": "log", "range": [math.log10(low) - 0.03, math.log10(high) + 0.03]} | {
        "title": {"text": "position in the segment, tokens (log scale)"},
        "tickmode": "array",
        "tickvals": [2**octave for octave in octaves],
        "tickangle": 0,
        "ticktext": [whole_number(2**octave) if octave >= 0 else "" for octave in octaves],
    }
    layout: Row = base_layout(x_axis, {}, right=34) | {
        "shapes": [],
        "annotations": [],
        "hovermode": "closest",
    }
    line = {"width": 1, "color": "@muted", "dash": "dot"}
    limits = [(window, "window") for window in sorted(set(windows(record).values()))]
    limits += [(chunk, "chunk") for chunk in sorted(set(chunks(record).values()))]
    for limit, name in limits:
        if not low < limit < high:
            continue
        layout["shapes"].append(
            {"type": "line", "xref": "x", "yref": "paper", "x0": limit, "x1": limit, "y0": 0}
            | {"y1": 1, "layer": "below", "line": line}
        )
        layout["annotations"].append(
            {"text": f"{name} of {whole_number(limit)}", "showarrow": False, "xref": "x"}
            | {"x": math.log10(limit), "yref": "paper", "y": 1, "yanchor": "bottom"}
        )
    return layout


def source_figure(record: RunRecord) -> Figure:
    """Returns the trend of the training loss of every source; no traces for a run of one source."""
    rows = [row for row in record.steps if source_losses(row)]
    rows = rows[:: -max(1, len(rows) // _SOURCE_POINTS)][::-1]
    names = dict.fromkeys(
        [*sources(record), *(name for row in rows for name in source_losses(row))]
    )
    data = list[Row]()
    for index, name in enumerate(names):
        points = [(row, source_losses(row)[name]) for row in rows if name in source_losses(row)]
        if points:
            data.append(_source_line(index, name, points))
    layout = layout_over_tokens(record, {})
    legend = {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"}
    layout |= {"showlegend": True, "legend": legend, "margin": layout["margin"] | {"b": 78}}
    data = data if len(data) > 1 else []
    unit = "trend of the training loss, nats per token, by source"
    return Figure("sources", _source_title(data), unit, data, layout, wide=True, height=330)


def _source_line(index: int, name: str, points: list[tuple[Row, float]]) -> Row:
    """Returns the trend of the losses of one source. index: selects the source's colour."""
    colour, losses = f"@source{index % NUM_COLOURS}", [loss for _, loss in points]
    drawn = smooth(losses, max(1, len(losses) // 12))
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) < 25 else "lines",
        "name": html.escape(name),
        "x": [row["tokens_seen"] for row, _ in points],
        "y": list(map(rounded, drawn)),
        "line": {"color": colour, "width": 2},
        "marker": {"size": 7, "color": colour},
        "customdata": [[row["step"], f"{loss:.4f}"] for row, loss in points],
        "hovertemplate": hover(name, "training loss %{customdata[1]}"),
        "cliponaxis": False,
    }


def _source_title(data: list[Row]) -> str:
    """Returns a sentence that names the sources with the lowest and highest trend at the end."""
    ends = sorted((trace["y"][-1], trace["name"]) for trace in data)
    if not ends:
        return "Loss by source"
    (low, best), (high, worst) = ends[0], ends[-1]
    return f"{html.unescape(best)} ends lowest ({low:.3f}), {html.unescape(worst)} highest ({high:.3f})"
