"""The figure of the accuracy on generated documents: by place, a line for each length, at the newest evaluation."""

import math

from train.report.axes import Figure, line_ends
from train.report.loss_figures import bucket_line, bucket_start, position_layout
from train.report.record import NUM_COLOURS, RunRecord
from train.report.rows import Row, finite_value, mapping, mappings
from train.report.units import percent, whole_number


def accuracy_figure(record: RunRecord) -> Figure:
    """Returns the accuracy given the true tokens (solid) and decoded greedily (dashed); no traces without any."""
    newest = record.accuracies[-1] if record.accuracies else Row()
    data, edges = list[Row](), list[float]()
    for index, one in enumerate(mappings(newest, "lengths")):
        length = finite_value(one, "length")
        if length is None:
            continue
        for found, way in ((one, ""), (mapping(one, "greedy"), " greedy")):
            buckets = _scored(found)
            if buckets:
                name = f"{whole_number(length)}{way}"
                data.append(_line(name, buckets, f"@source{index % NUM_COLOURS}", dashed=bool(way)))
                edges += [edge for b in buckets for edge in (bucket_start(b), b["end"])]
    # A greedy line has the colour of the solid one of its length, whose name stands for both.
    names = line_ends([line for line in data if line["line"]["dash"] == "solid"])
    layout = position_layout(record, edges)
    layout["yaxis"] |= {"range": [-0.02, 1.02], "tickformat": ".0%"}
    trained = finite_value(newest, "trained_length")
    if trained is not None and trained > 0 and data:
        layout["shapes"].append(
            {"type": "line", "xref": "x", "yref": "paper", "x0": trained, "x1": trained, "y0": 0}
            | {"y1": 1, "layer": "below", "line": {"width": 1.5, "color": "@ink", "dash": "dash"}}
        )
        layout["annotations"].append(
            {"text": f"trained to {whole_number(trained)}", "showarrow": False, "xref": "x"}
            | {"x": math.log10(trained), "xanchor": "left", "xshift": 4, "yref": "paper", "y": 0.5}
        )
    layout["annotations"] += names
    unit = "labelled tokens predicted, by place in documents of each length"
    unit += " · dashed: decoded greedily" if any(t["line"]["dash"] == "dash" for t in data) else ""
    return Figure("accuracy", _title(newest), unit, data, layout, wide=True, height=340)


def _scored(found: Row) -> list[Row]:
    """Returns the valid buckets with an accuracy, in order of place."""
    kept = [
        bucket
        for bucket in mappings(found, "position_buckets")
        if None not in (finite_value(bucket, key) for key in ("start", "end", "accuracy"))
        and 0 <= bucket["start"] < bucket["end"]
    ]
    return sorted(kept, key=lambda bucket: float(bucket["start"]))


def _line(name: str, buckets: list[Row], colour: str, *, dashed: bool) -> Row:
    words = [
        f"places {bucket['start']:,} to {bucket['end'] - 1:,}<br>{percent(bucket['accuracy'])}"
        for bucket in buckets
    ]
    line = {"color": colour, "dash": "dash" if dashed else "solid", "width": 2}
    return bucket_line(buckets, "accuracy") | {
        "name": name,
        "line": line,
        "mode": "lines+markers",
        "marker": {"size": 7, "color": colour},
        "customdata": words,
        "hovertemplate": f"<b>length {name}</b><br>%{{customdata}}<extra></extra>",
    }


def _title(newest: Row) -> str:
    """Returns the accuracy at the greatest length as a sentence."""
    lengths = [
        one for one in mappings(newest, "lengths") if finite_value(one, "length") is not None
    ]
    if not lengths:
        return "Accuracy"
    longest = max(lengths, key=lambda one: float(one["length"]))
    trained, below, beyond = (
        finite_value(row, key)
        for row, key in (
            (newest, "trained_length"),
            (longest, "accuracy_below"),
            (longest, "accuracy_from"),
        )
    )
    words = f"At length {whole_number(longest['length'])}"
    if trained is not None and below is not None and beyond is not None:
        place = whole_number(trained)
        return f"{words} accuracy is {percent(below)} below place {place}, {percent(beyond)} from it on"
    accuracy = finite_value(longest, "accuracy")
    return f"{words} accuracy is {percent(accuracy)}" if accuracy is not None else "Accuracy"
