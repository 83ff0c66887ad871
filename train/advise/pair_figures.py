"""Figures of pairs: the tokens of a turn of each, and the scores that they add up to by distance."""

import html
from itertools import pairwise

import numpy

from model.position.advice.adjusted_base import decay
from train.advise.advice import Advice
from train.advise.figures import DASHES, colour, length_axis, with_legend
from train.advise.subject import Case
from train.report.axes import Figure, base_layout
from train.report.record import NUM_COLOURS
from train.report.rows import Row, rounded
from train.report.units import whole_number

# Bins of distance in the figure of scores, and distances that are sampled in each.
_BINS, _SAMPLES = 160, 24


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
    layout = with_legend(layout) | {"shapes": shapes}
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
    layout = with_legend(layout)
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
        "line": {"color": colour(number), "width": 2, "dash": DASHES[number // NUM_COLOURS % 4]},
        "hovertemplate": f"{html.escape(case.label)}<br>distance %{{x:,.0f}}: %{{y:.3f}}<extra></extra>",
    }
    return [common | band, common | line]
