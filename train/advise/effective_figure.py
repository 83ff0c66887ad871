"""The figure of effective lengths: how often every position is trained."""

import html
import math

import numpy

from train.advise.advice import Advice
from train.advise.effective import OFTEN, trained
from train.advise.figures import length_axis, with_legend
from train.report.axes import Figure, base_layout
from train.report.rows import Row, rounded

# Positions that are drawn of each stage.
_PLACES = 160


def trained_figure(found: Advice) -> Figure:
    """Returns how often each position is trained up to the end of each stage, if every row is one document."""
    moments = found.subject.moments
    data = list[Row]()
    for number, moment in enumerate(moments):
        counts = trained(moments[: number + 1])
        if counts is None:
            return Figure("trained", "", "", [], {})
        places = numpy.unique(numpy.geomspace(1, len(counts) - 1 or 1, _PLACES).astype(numpy.int64))
        places = places[places < len(counts)]
        name = f"up to the end of {html.escape(moment.stage)}"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": places.tolist(),
                "y": [rounded(float(count)) for count in counts[places]],
                "line": {"color": f"@part{min(4, len(moments) - 1 - number)}", "width": 2},
                "hovertemplate": f"{name}<br>position %{{x:,}}: %{{y:.3s}} times<extra></extra>",
            }
        )
    tops = [max(trace["y"], default=1) for trace in data]
    y_axis = {"type": "log", "exponentformat": "power", "dtick": 1}
    y_axis |= {"range": [math.log10(max(tops)) - 4, math.log10(max(tops)) + 0.3]}
    layout = base_layout(length_axis(1, max(4, found.subject.longest), "position, tokens"), y_axis)
    layout = with_legend(layout)
    layout["shapes"] = [_level(OFTEN)] if max(tops) > OFTEN else []
    unit = (
        "times that a position occurs in training, log scale, at most: as if every row were one document · dashed: "
        "100 billion, where the effective length of two models of 1.3B parameters ended"
    )
    return Figure("trained", "Far positions are trained less often", unit, data, layout, height=320)


def _level(value: float) -> Row:
    line = {"color": "@muted", "width": 1, "dash": "dash"}
    ends = {"x0": 0, "x1": 1, "y0": value, "y1": value}
    return {"type": "line", "xref": "paper", "yref": "y", "line": line} | ends
