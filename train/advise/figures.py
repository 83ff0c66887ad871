"""What figures of an advice share: colours, axes of lengths, a legend above. Plain plotly JSON, as in the report."""

import math

from train.advise.advice import Advice
from train.report.record import NUM_COLOURS
from train.report.rows import Row
from train.report.units import whole_number

DASHES = ("solid", "dash", "dot", "dashdot")
_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}


def colour(index: int) -> str:
    """The colour of a case, as its name in the style sheet."""
    return f"@stage{index % NUM_COLOURS}"


def colour_of_kind(found: Advice, kind: str, number: int) -> str:
    """The colour of a kind: that of its last case, so that all figures agree; of a kind that does not rotate another.

    number: of the kind in the model.
    """
    cases = [place for place, case in enumerate(found.cases) if case.kind.name == kind]
    return colour(cases[-1]) if cases else f"@source{number % NUM_COLOURS}"


def length_axis(low: float, high: float, title: str) -> Row:
    """Returns a log axis of tokens with ticks at powers of two, written as 4,096 or 128k."""
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    step = max(1, math.ceil((last - first) / 8))
    ticks = [2**power for power in range(first, last + 1, step)]
    return {
        "type": "log",
        "title": {"text": title},
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [short_length(tick) for tick in ticks],
    }


def short_length(tokens: float) -> str:
    """Returns a length in tokens: 512, 4k, 1M, where k is 1,024; other lengths with all digits."""
    for unit, suffix in ((2**20, "M"), (2**10, "k")):
        if tokens >= unit and tokens % unit == 0:
            return f"{tokens // unit:.0f}{suffix}"
    return whole_number(tokens)


def with_legend(layout: Row, top: int = 44) -> Row:
    """Returns a layout with a legend above the plot. top: room for it, in pixels."""
    margin = layout["margin"] | {"t": top}
    return layout | {
        "hovermode": "closest",
        "showlegend": True,
        "legend": _LEGEND,
        "margin": margin,
    }
