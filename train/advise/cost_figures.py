"""Figures of cost: key/value cache and operations by length, one colour for each kind of layer."""

import html
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from train.advise.advice import Advice
from train.advise.cost import Cost, cost_of
from train.advise.figures import colour_of_kind, length_axis, short_length, with_legend
from train.advise.tables import flops_in_words
from train.report.axes import Figure, base_layout
from train.report.rows import Row, rounded
from train.report.units import percent, plural, size


class Style(NamedTuple):
    """The name of a line and how it is drawn."""

    name: str
    colour: str
    width: float = 2.0
    dash: str = "solid"


_ALL = Style("all", "@ink")
_IF_FULL = Style("if all layers were full", "@muted", 1.5, "dash")


def cost_figures(found: Advice) -> list[Figure]:
    """Returns the figures of the cache and of the operations, over lengths from a thousand tokens or less."""
    low = min(1024, *found.lengths)
    high = max(*found.lengths, 2 * low)
    lengths = [round(low * (high / low) ** (part / 64)) for part in range(65)]
    costs = [cost_of(found.subject.moments[-1], length) for length in lengths]
    return [_cache(found, costs), _operations(found, costs)]


def _cache(found: Advice, costs: Sequence[Cost]) -> Figure:
    end, kinds = costs[-1], costs[0].kinds
    hybrid = end.cache_bytes < end.full_cache_bytes
    data = []
    if hybrid:
        data.append(_trace(costs, lambda cost: cost.full_cache_bytes, _IF_FULL, size))
    for number, kind in enumerate(kinds):
        style = Style(
            f"{kind.kind}, {plural(kind.layers, 'layer')}", colour_of_kind(found, kind.kind, number)
        )
        data.append(_trace(costs, partial(_cache_of_kind, number), style, size))
    if len(kinds) > 1:
        data.append(_trace(costs, lambda cost: cost.cache_bytes, _ALL, size))
    title = f"{size(end.cache_bytes)} of cache at {short_length(end.length)} tokens"
    if hybrid:
        title += f", {percent(end.cache_bytes / end.full_cache_bytes)} of full attention's"
    unit = "bytes of keys and values of one sequence in bfloat16, both axes log"
    return Figure("cache", title, unit, data, _layout(costs, "B"), height=340)


def _operations(found: Advice, costs: Sequence[Cost]) -> Figure:
    end = costs[-1]
    data = []
    if end.forward_flops < end.full_forward_flops:
        data.append(
            _trace(costs, lambda cost: 3 * cost.full_forward_flops / cost.length, _IF_FULL, _flops)
        )
    weights = Style("weights", "@part2")
    data.append(_trace(costs, lambda cost: 3 * cost.dense_flops / cost.length, weights, _flops))
    for number, kind in enumerate(costs[0].kinds):
        style = Style(f"attention of {kind.kind}", colour_of_kind(found, kind.kind, number))
        data.append(_trace(costs, partial(_attention_of_kind, number), style, _flops))
    data.append(_trace(costs, lambda cost: cost.training_flops / cost.length, _ALL, _flops))
    share = percent(end.attention_flops / end.forward_flops)
    title = f"Attention is {share} of a token's operations at {short_length(end.length)} tokens"
    unit = (
        "training, forward and backward, mean per token of a document of that length, both axes log"
    )
    return Figure("operations", title, unit, data, _layout(costs, "FLOP"), height=340)


def _cache_of_kind(number: int, cost: Cost) -> float:
    return cost.kinds[number].cache_bytes


def _attention_of_kind(number: int, cost: Cost) -> float:
    return 3 * cost.kinds[number].attention_flops / cost.length


def _layout(costs: Sequence[Cost], unit: str) -> Row:
    x_axis = length_axis(costs[0].length, costs[-1].length, "length of the sequence, tokens")
    y_axis = {"type": "log", "dtick": 1, "ticksuffix": unit, "exponentformat": "SI"}
    layout = with_legend(base_layout(x_axis, y_axis, right=24), top=76) | {"hovermode": "x"}
    layout["margin"]["l"] = 74
    return layout


def _trace(
    costs: Sequence[Cost],
    value: Callable[[Cost], float],
    style: Style,
    show: Callable[[float], str],
) -> Row:
    values = [value(cost) for cost in costs]
    name = html.escape(style.name)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [cost.length for cost in costs],
        "y": [rounded(value) for value in values],
        "line": {"color": style.colour, "width": style.width, "dash": style.dash},
        "customdata": [show(value) for value in values],
        "hovertemplate": f"{name}: %{{customdata}}<extra></extra>",
    }


def _flops(count: float) -> str:
    return f"{flops_in_words(count)}FLOP"
