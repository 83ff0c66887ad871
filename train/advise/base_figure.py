"""The figure of bases: how far a rotation reaches at every base, and where the model and the lengths asked stand."""

import html

import numpy

from model.position.advice.base_bound import reach
from model.position.settings import Values
from train.advise.advice import Advice
from train.advise.base import ANY_BASE, MOST, most_of
from train.advise.figures import DASHES, colour, length_axis, with_legend
from train.advise.subject import Case
from train.advise.tables import base_in_words
from train.report.axes import Figure, base_layout
from train.report.rows import Row, rounded
from train.report.units import whole_number

# Bases that are drawn.
_BASES = 360


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
    layout = with_legend(layout)
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
    reaches = [reach(case.head_radians(base), min(most, most_of(case))) for base in bases]
    name = f"{case.method} rotation, {len(case.radians)} pairs"
    return {
        "type": "scatter",
        "mode": "lines",
        "name": html.escape(name),
        "x": [rounded(float(base)) for base in bases],
        "y": [max(1, tokens) for tokens in reaches],
        "line": {"color": "@muted", "width": 1.5, "dash": DASHES[number % 4], "shape": "hvh"},
        "customdata": [
            f"base {base_in_words(base)} reaches {whole_number(tokens)}{' or more' * (tokens >= most)} tokens"
            for base, tokens in zip(bases, reaches, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _reach_point(case: Case, number: int, found: Advice) -> Row:
    row = found.reaches[number]
    verdict = {True: "enough", False: "too small", None: "not known"}[row.enough]
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
