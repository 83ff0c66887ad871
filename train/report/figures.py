"""The report's figures: what was trained, when, and how well.

Each function takes the run's record and returns one Figure whose title says the finding. A figure
without data has no traces, and the page leaves it out.
"""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from train.report.axes import (
    base_layout,
    crosses,
    hover,
    layout_over_tokens,
    line_ends,
    log_ticks,
    margin_labels,
    stage_lines,
)
from train.report.record import (
    Row,
    RunRecord,
    finite_value,
    known,
    length_label,
    rounded,
    short_number,
    spiked,
    weighted_mean,
    yardstick,
)


@dataclass(frozen=True)
class Figure:
    """One plot with its words: `title` says the finding, `unit` what the vertical axis measures."""

    key: str
    title: str
    unit: str
    data: list[Row]
    layout: Row
    wide: bool = False
    height: int = 260


def loss_figure(record: RunRecord) -> Figure:
    """Training loss, held-out losses as points, and what counting one or two tokens would reach."""
    data = stage_lines(record, "loss", lambda value: f"{value:.4f}", "training loss", smoothed=True)
    losses, rare = sorted(known(record.steps, "loss")), len(record.steps) // 200
    levels = losses[rare : len(losses) - rare]  # a lone spike may leave the plot, its trend may not
    levels += [value for trace in data for value in trace["y"] if value and "customdata" in trace]
    for stage in record.stage_names:
        rows = [row for row in record.evaluations if str(row["stage"]) == stage]
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
    """One stage's evaluations over tokens seen."""
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
    """Held-out loss by position in the segment, one line per stage, and a bigram's."""
    data, edges, newest = list[Row](), list[float](), Row()
    for stage in record.stage_names:
        buckets = position_buckets(record.last_evaluation(stage))
        if not buckets:
            continue
        newest = record.last_evaluation(stage)
        edges += [edge for bucket in buckets for edge in (bucket_start(bucket), bucket["end"])]
        line = {"color": record.colour(stage), "dash": record.dash(stage), "width": 2}
        words = [
            f"positions {b['start']} to {b['end'] - 1}<br>loss {b['loss']:.4f}, bigram "
            + (f"{b['bigram_loss']:.4f}" if finite_value(b, "bigram_loss") is not None else "none")
            + f"<br>{short_number(b.get('tokens') or 0)} tokens scored"
            for b in buckets
        ]
        data.append(
            bucket_line(buckets, "loss")
            | {"name": html.escape(stage), "line": line, "mode": "lines+markers"}
            | {"marker": {"size": 7, "color": line["color"]}, "customdata": words}
            | {"hovertemplate": f"<b>{html.escape(stage)}</b><br>%{{customdata}}<extra></extra>"}
        )
    names = line_ends(data)
    counted = [b for b in position_buckets(newest) if finite_value(b, "bigram_loss") is not None]
    if counted:
        line = {"color": "@muted", "width": 1.5, "dash": "dash"}
        skip = {"name": "bigram", "mode": "lines", "line": line, "hoverinfo": "skip"}
        data.append(bucket_line(counted, "bigram_loss") | skip)
    layout = position_layout(record, edges)
    layout["annotations"] += names
    unit = "held-out nats per token, by position in the segment"
    unit += " · dashed: bigram" if counted else ""
    return Figure("position", position_title(newest), unit, data, layout, wide=True, height=340)


def position_buckets(evaluation: Row) -> list[Row]:
    """The evaluation's buckets that hold a loss, in order of position."""
    buckets = evaluation.get("position_buckets") or []
    kept = [
        b for b in buckets if None not in (finite_value(b, k) for k in ("start", "end", "loss"))
    ]
    return sorted(kept, key=lambda bucket: float(bucket["start"]))


def bucket_start(bucket: Row) -> float:
    """The bucket's left edge on a log axis: one that starts at 0 is drawn over its last octave."""
    return float(bucket["start"] or bucket["end"] / 2)


def bucket_line(buckets: list[Row], key: str) -> Row:
    """A value at the geometric middle of each bucket."""
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
    """Octaves on the x axis, and a line where each kind of windowed layer stops seeing."""
    low, high = min(edges, default=1.0), max(edges, default=1024.0)
    octaves = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)
    octaves = octaves[:: math.ceil(len(octaves) / 12)]
    x_axis = {"type": "log", "range": [math.log10(low) - 0.03, math.log10(high) + 0.03]} | {
        "title": {"text": "position in the segment, tokens (log2)"},
        "tickmode": "array",
        "tickvals": [2**octave for octave in octaves],
        "tickangle": 0,
        "ticktext": [length_label(2**octave) if octave >= 0 else "" for octave in octaves],
    }
    layout: Row = base_layout(x_axis, {}, right=34) | {
        "shapes": [],
        "annotations": [],
        "hovermode": "closest",
    }
    line = {"width": 1, "color": "@muted", "dash": "dot"}
    for window in sorted(set(record.windows.values())):
        if not low < window < high:
            continue
        layout["shapes"].append(
            {"type": "line", "xref": "x", "yref": "paper", "x0": window, "x1": window, "y0": 0}
            | {"y1": 1, "layer": "below", "line": line}
        )
        layout["annotations"].append(
            {"text": f"window of {length_label(window)}", "showarrow": False, "xref": "x"}
            | {"x": math.log10(window), "yref": "paper", "y": 1, "yanchor": "bottom"}
        )
    return layout


def schedule_figure(record: RunRecord, key: str, what: str, show: Callable[[float], str]) -> Figure:
    """A stepwise quantity (context length, RoPE base) on a log axis whose ticks are its values."""
    values = known(record.steps, key)
    levels = list(dict.fromkeys(values))
    unit = f"{'tokens' if key == 'sequence_length' else 'base of the rotation angles'}, log scale"
    title = f"{what} {show(levels[0])} throughout" if len(levels) == 1 else what
    if 1 < len(levels) <= 6:
        title = f"{what} grows " if levels == sorted(levels) else f"{what} goes "
        title += " → ".join(show(level) for level in levels)
    elif levels:
        title = f"{what} from {show(levels[0])} to {show(levels[-1])}" if len(levels) > 1 else title
    data = stage_lines(record, key, lambda value: f"{value:,.0f}", what)
    layout = layout_over_tokens(record, log_ticks(levels, show))
    return Figure(key, title, unit, data, layout)


def learning_rate_figure(record: RunRecord) -> Figure:
    values = known(record.steps, "learning_rate")
    title = "Learning rate"
    if values and values[-1] < max(values):
        title += f" peaks at {max(values):.2g} and ends at {values[-1]:.2g}"
    elif values:
        title += f" {values[-1]:.2g} at the last step, its highest"
    data = stage_lines(record, "learning_rate", lambda value: f"{value:.4g}", "learning rate")
    layout = layout_over_tokens(record, {"rangemode": "tozero", "exponentformat": "e"})
    return Figure("learning_rate", title, "learning rate per step", data, layout)


def gradient_norm_figure(record: RunRecord) -> Figure:
    """Gradient norms on a log axis; a skipped step is a cross, at the top if not finite."""
    values = [value for value in known(record.steps, "gradient_norm") if value > 0]
    data = stage_lines(record, "gradient_norm", lambda value: f"{value:.4g}", "norm", smoothed=True)
    skipped = [row for row in record.steps if row.get("skipped") is True]
    top = max(values, default=1.0)

    def place(row: Row) -> tuple[float, str]:
        norm = finite_value(row, "gradient_norm")
        return norm or top, str(row.get("skipped_because", "not finite"))

    data += crosses(record, skipped, "skipped", place)
    title = f"Gradient norm, median {median(values):.2g}" if values else "Gradient norm"
    count = len(skipped)
    title += f"; {count} of {len(record.steps)} steps skipped" if count else "; no step skipped"
    unit = "L2 norm before clipping, log scale" + (" · ✕ skipped step" if count else "")
    axis = {
        "type": "log",
        "tickformat": "~g",
        "dtick": "D2" if top < 30 * min(values, default=1.0) else 1,
    }
    return Figure("gradient_norm", title, unit, data, layout_over_tokens(record, axis))


def throughput_figure(record: RunRecord) -> Figure:
    key = "tokens_per_second"
    mean = weighted_mean(record.steps, key, "step_seconds")
    title = f"{short_number(mean)} tokens per second on average" if mean else "Tokens per second"
    rates = [
        weighted_mean(record.steps_of(stage), key, "step_seconds") for stage, _, _ in record.spans()
    ]
    if len(rates) > 1 and rates[0] and rates[-1]:
        title += f"; the last stage runs at {rates[-1] / rates[0]:.0%} of the first"
    data = stage_lines(record, key, lambda value: f"{value:,.0f}", "tokens/s", smoothed=True)
    layout = layout_over_tokens(record, {"rangemode": "tozero"})
    return Figure(key, title, "tokens per second, all ranks together", data, layout)


def padding_figure(record: RunRecord) -> Figure:
    key = "padding_fraction"
    mean = weighted_mean(record.steps, key, "batch_tokens")
    title = "Padding" if mean is None else f"{mean:.2%} of all tokens are padding"
    data = stage_lines(record, key, lambda value: f"{value:.3%}", "padding", smoothed=True)
    axis = {"rangemode": "tozero", "tickformat": ".3~%"}
    return Figure(key, title, "share of each step's tokens", data, layout_over_tokens(record, axis))


def time_figure(record: RunRecord) -> Figure:
    """Where a step's time goes, as one bar per stage; what no part accounts for is "other"."""
    parts, totals = dict[str, dict[str, float]](), dict[str, float]()
    for row in record.steps:
        seconds, stage = row.get("seconds"), str(row["stage"])
        if not isinstance(seconds, dict):
            continue
        known_parts = {str(part): finite_value(seconds, part) or 0.0 for part in seconds}
        known_parts["other"] = max(
            0.0, (finite_value(row, "step_seconds") or 0.0) - sum(known_parts.values())
        )
        for part, value in known_parts.items():
            of_stage = parts.setdefault(part, {})
            of_stage[stage] = of_stage.get(stage, 0.0) + value
            totals[stage] = totals.get(stage, 0.0) + value
    stages = [stage for stage in record.stage_names if totals.get(stage)]
    order = sorted(parts, key=lambda part: (part == "other", -sum(parts[part].values())))
    whole = sum(totals.values())
    order = [part for part in order if whole and sum(parts[part].values()) > 1e-4 * whole]
    data = [
        time_bar(record, part, parts[part], totals, stages, rank) for rank, part in enumerate(order)
    ]
    title = "Where a step's time goes"
    if order:
        share = sum(parts[order[0]].values()) / whole
        title = f"{part_name(order[0]).capitalize()} takes {share:.0%} of the time"
    layout = base_layout(
        {"range": [0, 1], "tickformat": ".0%", "tickvals": [0, 0.25, 0.5, 0.75, 1]},
        {"autorange": "reversed", "type": "category", "dtick": 1},
        right=24,
    )
    layout |= {"barmode": "stack", "bargap": 0.35, "hovermode": "closest", "showlegend": True}
    layout["legend"] = {
        "orientation": "h",
        "x": 0,
        "y": 1.02,
        "yanchor": "bottom",
        "traceorder": "normal",
    }
    layout["margin"] = layout["margin"] | {
        "t": 44,
        "l": min(150, 14 + 8 * max(map(len, stages), default=5)),
        "b": 28,
    }
    unit, height = "share of the steps' seconds, per stage", max(220, 110 + 42 * len(stages))
    return Figure("seconds", title, unit, data, layout, height=height)


def part_name(part: str) -> str:
    return part.replace("forward_backward", "forward and backward").replace("_", " ")


def time_bar(
    record: RunRecord, part: str, seconds: Row, totals: Row, stages: list[str], rank: int
) -> Row:
    shares = [seconds.get(stage, 0.0) / totals[stage] for stage in stages]
    steps = [
        sum(isinstance(row.get("seconds"), dict) for row in record.steps_of(s)) for s in stages
    ]
    means = [seconds.get(stage, 0.0) / count for stage, count in zip(stages, steps, strict=True)]
    name = html.escape(part_name(part))
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [html.escape(s) for s in stages],
    } | {
        "x": [rounded(share) for share in shares],
        "marker": {"color": f"@part{min(rank, 4)}", "line": {"width": 1, "color": "@card"}},
        "text": [f"{share:.0%}" if share >= 0.08 else "" for share in shares],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "customdata": [
            f"{share:.1%}, {mean:.4g} s per step" for share, mean in zip(shares, means, strict=True)
        ],
        "hovertemplate": f"<b>%{{y}}</b> · {name}<br>%{{customdata}}<extra></extra>",
    }


def all_figures(record: RunRecord) -> list[Figure]:
    """The report's figures in reading order, without those that have nothing to show."""
    figures = [
        loss_figure(record),
        position_figure(record),
        schedule_figure(record, "sequence_length", "Sequence length", length_label),
        schedule_figure(record, "rope_base", "RoPE base", short_number),
        learning_rate_figure(record),
        gradient_norm_figure(record),
        throughput_figure(record),
        padding_figure(record),
        time_figure(record),
    ]
    figures = [figure for figure in figures if figure.data]
    if sum(not figure.wide for figure in figures) % 2:  # no half-empty last row
        figures[-1] = replace(figures[-1], wide=True)
    return figures
