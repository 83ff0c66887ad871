"""Figures of positions: reach by base, scores by distance, wavelengths by pair. Plain plotly JSON, as in the report."""

import html
import math
from itertools import pairwise

import numpy

from model.position.advice.adjusted_base import decay
from model.position.advice.base_bound import reach
from model.position.settings import Values
from train.advise.advice import Advice
from train.advise.base import ANY_BASE, MOST
from train.advise.effective import OFTEN, trained
from train.advise.subject import Case
from train.advise.tables import base_in_words
from train.report.axes import Figure, base_layout
from train.report.record import NUM_COLOURS
from train.report.rows import Row, rounded
from train.report.units import whole_number

_DASHES = ("solid", "dash", "dot", "dashdot")
# Bases that the figure of reaches draws, and distances of that of scores: bins, and samples in each.
_BASES = 360
_BINS, _SAMPLES = 160, 24
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


def reach_figure(found: Advice) -> Figure:
    """Returns the reach against the base, one line for each way to rotate, and every case as a point.

    A point stands at its base and at what its layers see: below the line the base is enough.
    """
    cases = found.cases
    if not cases or all(case.width <= 2 for case in cases):
        return Figure("reach", "", "", [], {})
    unlike: dict[tuple[str, int], Case] = {}
    for case in cases:
        unlike.setdefault((case.method, len(case.radians)), case)
    bases = _bases_drawn(found)
    seen = [case.kind.sees for case in cases] + [row.length for row in found.bases]
    most = min(MOST, 8 * max(seen))
    data = [_reach_line(case, bases, most, number) for number, case in enumerate(unlike.values())]
    data += _bases_asked(found)
    data += [_reach_point(case, number, found) for number, case in enumerate(cases)]
    ticks = 1 if bases[-1] > 1e3 * bases[0] else "D2"
    axis: Row = {"type": "log", "title": {"text": "RoPE base"}, "exponentformat": "power"}
    axis["dtick"] = ticks
    layout = base_layout(axis, length_axis(max(4, min(seen) / 8), most, ""))
    layout |= {"hovermode": "closest", "showlegend": True, "legend": _LEGEND}
    layout["margin"] = layout["margin"] | {"t": 44}
    title = "A larger base reaches farther, but not at every step"
    unit = (
        "reach in tokens, log scale: the largest distance with a sum of cosines >= 0 · diamonds: what layers see, at "
        "their base: enough below the line, too small above it · triangles: the bases for every length"
    )
    return Figure("reach", title, unit, data, layout, wide=True, height=380)


def _bases_asked(found: Advice) -> list[Row]:
    """Returns the first feasible base and the safe one of every length, as points on the level of the length."""
    kinds = (
        ("first feasible base", "triangle-right", "first"),
        ("safe from here on", "triangle-left", "safe"),
    )
    rows = [row for row in found.bases if row.bound and row.bound.safe > ANY_BASE]
    traces = []
    for name, symbol, which in kinds:
        bases = [float(getattr(row.bound, which)) for row in rows]
        texts = [
            f"{name} for {whole_number(row.length)} tokens: {base_in_words(base)}"
            for row, base in zip(rows, bases, strict=True)
        ]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [rounded(base) for base in bases],
                "y": [row.length for row in rows],
                "marker": {"symbol": symbol, "size": 9, "color": "@ink"},
                "customdata": texts,
                "hovertemplate": "%{customdata}<extra></extra>",
                "cliponaxis": False,
            }
        )
    return traces if rows else []


def _bases_drawn(found: Advice) -> Values:
    tops = [row.bound.safe for row in found.bases if row.bound]
    here = [case.kind.base for case in found.cases]
    firsts = [row.bound.first for row in found.bases if row.bound]
    low, high = max(2.0, min([*here, *firsts]) / 8), max([*here, *tops]) * 8
    return numpy.geomspace(low, high, _BASES)


def _reach_line(case: Case, bases: Values, most: int, number: int) -> Row:
    reaches = [reach(case.head_radians(base), most) for base in bases]
    name = f"{case.method} rotation, {len(case.radians)} pairs"
    return {
        "type": "scatter",
        "mode": "lines",
        "name": html.escape(name),
        "x": [rounded(float(base)) for base in bases],
        "y": [max(1, tokens) for tokens in reaches],
        "line": {"color": "@muted", "width": 1.5, "dash": _DASHES[number % 4], "shape": "hvh"},
        "customdata": [
            f"base {base_in_words(base)} reaches {whole_number(tokens)}{' or more' * (tokens >= most)} tokens"
            for base, tokens in zip(bases, reaches, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _reach_point(case: Case, number: int, found: Advice) -> Row:
    row = found.reaches[number]
    verdict = "enough" if row.enough else "too small"
    text = f"{case.label}: base {base_in_words(case.kind.base)}, sees {whole_number(case.kind.sees)} tokens, {verdict}"
    symbol = "diamond" if row.enough else "diamond-open"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": html.escape(f"{case.label}: {verdict}"),
        "x": [case.kind.base],
        "y": [case.kind.sees],
        "marker": {"symbol": symbol, "size": 12, "color": colour(number), "line": {"width": 2}},
        "hovertemplate": f"{html.escape(text)}<extra></extra>",
        "cliponaxis": False,
    }


def decay_figure(found: Advice) -> Figure:
    """Returns the scores of ones by distance: their mean in bins of distance, and the range in a bin as a band."""
    if not found.cases:
        return Figure("decay", "", "", [], {})
    data = [
        trace for number, case in enumerate(found.cases) for trace in _decay_lines(case, number)
    ]
    longest = max(case.kind.sees for case in found.cases)
    layout = base_layout(
        length_axis(1, max(4, longest), "distance between query and key, tokens"),
        {"zeroline": True},
    )
    layout["yaxis"] |= {"zerolinecolor": "@rule", "zerolinewidth": 1}
    layout |= {"hovermode": "closest", "showlegend": True, "legend": _LEGEND}
    layout["margin"] = layout["margin"] | {"t": 44}
    unit = (
        "score of a query and a key of ones, 2 sum cos(m theta) / sqrt(d) · line: mean of sampled distances · band: "
        "their range; below 0 a random key is ahead"
    )
    return Figure(
        "decay",
        "Scores fall with distance, up to what the layers see",
        unit,
        data,
        layout,
        height=320,
    )


def _decay_lines(case: Case, number: int) -> list[Row]:
    edges = numpy.unique(numpy.geomspace(1, max(2, case.kind.sees), _BINS).astype(numpy.int64))
    middles, lows, means, highs = [], [], [], []
    for start, end in pairwise(edges):
        distances = numpy.unique(numpy.linspace(start, end - 1, _SAMPLES).astype(numpy.int64))
        scores = decay(case.head_radians(), distances.astype(numpy.float64))
        middles.append(float(distances.mean()))
        lows.append(float(scores.min()))
        means.append(float(scores.mean()))
        highs.append(float(scores.max()))
    common = {"type": "scatter", "mode": "lines", "name": html.escape(case.label)}
    common |= {"legendgroup": str(number)}
    band = {
        "x": [*middles, *reversed(middles)],
        "y": [rounded(value) for value in (*highs, *reversed(lows))],
        "fill": "toself",
        "opacity": 0.18,
        "fillcolor": colour(number),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    line = {
        "x": middles,
        "y": list(map(rounded, means)),
        "line": {"color": colour(number), "width": 2, "dash": _DASHES[number // NUM_COLOURS % 4]},
        "hovertemplate": f"{html.escape(case.label)}<br>distance %{{x:,.0f}}: %{{y:.3f}}<extra></extra>",
    }
    return [common | band, common | line]


def wavelength_figure(found: Advice) -> Figure:
    """Returns the wave of every pair; pairs above a dotted line never turn once within what the layers see."""
    if not found.pairs:
        return Figure("waves", "", "", [], {})
    data, shapes = list[Row](), list[Row]()
    for number, row in enumerate(found.pairs):
        symbols = ["circle" if turns >= 1.0 else "circle-open" for turns in row.turns_P]
        label = html.escape(row.case.label)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(symbols) <= 64 else "lines",
                "name": label,
                "x": list(range(len(symbols))),
                "y": [rounded(float(wave)) for wave in row.wavelengths_P],
                "marker": {"symbol": symbols, "size": 6, "color": colour(number)},
                "line": {"color": colour(number), "width": 1.5},
                "customdata": [f"{turns:,.3g}" for turns in row.turns_P],
                "hovertemplate": f"{label}, pair %{{x}}<br>a turn in %{{y:,.1f}} tokens, %{{customdata}} turns within "
                f"{whole_number(row.case.kind.sees)}<extra></extra>",
            }
        )
        shapes.append(_limit(row.case.kind.sees, number))
    waves = [float(wave) for row in found.pairs for wave in row.wavelengths_P]
    high = max(*waves, *(row.case.kind.sees for row in found.pairs)) * 1.5
    layout = base_layout({"title": {"text": "pair, from the fastest"}}, length_axis(4, high, ""))
    layout |= {"hovermode": "closest", "showlegend": True, "legend": _LEGEND, "shapes": shapes}
    layout["margin"] = layout["margin"] | {"t": 44}
    unit = (
        "tokens of a whole turn, log scale · dotted: what the layers see · filled: turns at least once within it · "
        "open: never once"
    )
    return Figure("waves", _wave_title(found), unit, data, layout, height=320)


def _wave_title(found: Advice) -> str:
    never = [row for row in found.pairs if row.never and row.case in found.at_end]
    if not never:
        return "Every pair turns at least once"
    row = max(never, key=lambda row: row.never)
    return f"{row.never} of {len(row.turns_P)} pairs of {row.case.kind.name} never turn once"


def _limit(tokens: int, number: int) -> Row:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": "y",
        "y0": tokens,
        "y1": tokens,
        "line": {"color": colour(number), "width": 1, "dash": "dot"},
    }


def trained_figure(found: Advice) -> Figure:
    """Returns how often each position is trained up to the end of each stage, if every row is one document."""
    moments = found.subject.moments
    data = list[Row]()
    for number, moment in enumerate(moments):
        if not moment.rows:
            return Figure("trained", "", "", [], {})
        counts = trained(moments[: number + 1])
        places = numpy.unique(numpy.geomspace(1, len(counts) - 1 or 1, _BINS).astype(numpy.int64))
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
    layout |= {"hovermode": "closest", "showlegend": True, "legend": _LEGEND}
    layout["margin"] = layout["margin"] | {"t": 44}
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
