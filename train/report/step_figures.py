"""Figures of the steps: schedules, gradient norms, throughput, MFU, padding, time by part of a step."""

import html
import math
from statistics import median

from train.report.axes import (
    Figure,
    base_layout,
    crosses,
    layout_over_tokens,
    log_ticks,
    stage_lines,
)
from train.report.record import RunRecord
from train.report.rows import Row, finite_value, known, mapping, rounded, weighted_mean
from train.report.units import duration, percent, short_number, whole_number


def schedule_figure(record: RunRecord, key: str, what: str) -> Figure:
    """Returns a stepwise quantity (sequence length, RoPE base, a window) on a log axis with ticks at its values.

    The figure has no traces if the quantity never changes.
    """
    values = known(record.steps, key)
    levels = list(dict.fromkeys(values))
    if len(levels) < 2:
        return Figure(key, what, "", [], {})  # the table of stages shows it
    unit = {"sequence_length": "tokens", "rope_base": "base of the rotation angles"}.get(
        key, "keys"
    )
    title = f"{what} from {whole_number(levels[0])} to {whole_number(levels[-1])}"
    if len(levels) <= 6:
        title = f"{what} grows " if levels == sorted(levels) else f"{what} goes "
        title += " → ".join(whole_number(level) for level in levels)
    data = stage_lines(record, key, whole_number, what)
    layout = layout_over_tokens(record, log_ticks(_labelled(levels), whole_number))
    return Figure(key, title, f"{unit}, log scale", data, layout)


def _labelled(levels: list[float]) -> list[float]:
    """Returns the levels to label: all if at most six; of a ramp its ends, and 1, 2 and 5 x 10^n between them."""
    low, high = min(levels), max(levels)
    if len(levels) <= 6 or low <= 0:
        return levels
    room = (high / low) ** 0.15
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    between = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
    return [low, *(value for value in between if low * room < value < high / room), high]


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
    """Returns gradient norms on a log axis; a skipped step is a cross, at the top if not finite."""
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
    """Returns the tokens per second of all ranks together."""
    key = "tokens_per_second"
    mean = weighted_mean(record.steps, key, "step_seconds")
    title = f"{short_number(mean)} tokens per second on average" if mean else "Tokens per second"
    rates = [
        weighted_mean(record.steps_of(stage), key, "step_seconds") for stage, _, _ in record.spans()
    ]
    if len(rates) > 1 and rates[0] and rates[-1]:
        title += f"; the last stage runs at {rates[-1] / rates[0]:.0%} of the first"
    data = stage_lines(record, key, whole_number, "tokens/s", smoothed=True)
    layout = layout_over_tokens(record, {"rangemode": "tozero"})
    return Figure(key, title, "tokens per second, all ranks together", data, layout)


def utilisation_figure(record: RunRecord) -> Figure:
    """Returns the MFU (model FLOPs utilization); no traces if the steps have none."""
    mean = weighted_mean(record.steps, "mfu", "step_seconds")
    title = f"Model FLOPs utilisation (MFU) {percent(mean)} on average" if mean else "MFU"
    data = stage_lines(record, "mfu", percent, "MFU", smoothed=True)
    axis = {"rangemode": "tozero", "tickformat": ".3~%"}
    unit = "share of the devices' peak; windows and documents are counted, recomputation is not"
    return Figure("mfu", title, unit, data, layout_over_tokens(record, axis))


def padding_figure(record: RunRecord) -> Figure:
    key = "padding_fraction"
    mean = weighted_mean(record.steps, key, "batch_tokens")
    title = "Padding" if mean is None else f"{percent(mean)} of all tokens are padding"
    data = stage_lines(record, key, percent, "padding", smoothed=True)
    axis = {"rangemode": "tozero", "tickformat": ".3~%"}
    return Figure(key, title, "share of each step's tokens", data, layout_over_tokens(record, axis))


def time_figure(record: RunRecord) -> Figure:
    """Returns the parts of a step's time as one bar per stage; the unmeasured rest is "other"."""
    parts, totals = dict[str, dict[str, float]](), dict[str, float]()
    for row in record.steps:
        seconds, stage = mapping(row, "seconds"), row["stage"]
        if not seconds:
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
        sum(bool(mapping(row, "seconds")) for row in record.steps_of(stage)) for stage in stages
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
            f"{share:.1%}, {duration(mean)} per step"
            for share, mean in zip(shares, means, strict=True)
        ],
        "hovertemplate": f"<b>%{{y}}</b> · {name}<br>%{{customdata}}<extra></extra>",
    }
