"""Figures of cost: key/value cache and operations by length, one colour for each kind of layer."""

import html
from collections.abc import Callable, Sequence

from train.advise.advice import Advice
from train.advise.cost import Cost, cost_of
from train.advise.figures import length_axis, short_length
from train.report.axes import Figure, base_layout
from train.report.record import NUM_COLOURS
from train.report.rows import Row, rounded
from train.report.units import percent, size

_LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}


def cost_figures(found: Advice) -> list[Figure]:
    """Returns the figures of the cache and of the operations, over lengths from a thousand tokens or less."""
    low = min(1024, *found.lengths)
    high = max(*found.lengths, 2 * low)
    lengths = [round(low * (high / low) ** (part / 64)) for part in range(65)]
    costs = [cost_of(found.subject.moments[-1], length) for length in lengths]
    return [_cache(costs), _operations(costs)]


def _cache(costs: Sequence[Cost]) -> Figure:
    hybrid = costs[-1].cache_bytes < costs[-1].full_cache_bytes
    data = [] if not hybrid else [_reference(costs, lambda cost: cost.full_cache_bytes, size)]
    for number, kind in enumerate(costs[0].kinds):
        values = [cost.kinds[number].cache_bytes for cost in costs]
        data.append(_line(costs, values, (f"{kind.kind}, {kind.layers} layers", number), size))
    if len(costs[0].kinds) > 1:
        data.append(_line(costs, [cost.cache_bytes for cost in costs], ("all layers", None), size))
    values = [value for trace in data for value in trace["y"]]
    layout = _layout(costs, {"type": "log", "dtick": 1, "ticksuffix": "B", "exponentformat": "SI"})
    end = costs[-1]
    title = f"{size(end.cache_bytes)} of cache at {short_length(end.length)} tokens"
    if hybrid:
        title += f", {percent(end.cache_bytes / end.full_cache_bytes)} of full attention's"
    unit = "bytes of keys and values of one sequence in bfloat16, both axes log"
    assert all(value > 0 for value in values), "every layer keeps something"
    return Figure("cache", title, unit, data, layout, height=320)


def _operations(costs: Sequence[Cost]) -> Figure:
    def per_token(count: float, cost: Cost) -> float:
        return 3 * count / cost.length

    data = [
        _area(costs, [per_token(cost.dense_flops, cost) for cost in costs], ("weights", "@part2"))
    ]
    for number, kind in enumerate(costs[0].kinds):
        values = [per_token(cost.kinds[number].attention_flops, cost) for cost in costs]
        label = f"attention of {kind.kind}"
        data.append(_area(costs, values, (label, f"@source{number % NUM_COLOURS}")))
    hybrid = costs[-1].forward_flops < costs[-1].full_forward_flops
    if hybrid:
        data.append(
            _reference(costs, lambda cost: per_token(cost.full_forward_flops, cost), _flops)
        )
    layout = _layout(costs, {"rangemode": "tozero", "exponentformat": "SI", "ticksuffix": "FLOP"})
    end = costs[-1]
    share = percent(end.attention_flops / end.forward_flops)
    title = f"Attention is {share} of a token's operations at {short_length(end.length)} tokens"
    unit = (
        "operations of training, forward and backward, mean per token of a document of that length"
    )
    return Figure("operations", title, unit, data, layout, height=320)


def _layout(costs: Sequence[Cost], y_axis: Row) -> Row:
    x_axis = length_axis(costs[0].length, costs[-1].length, "length of the sequence, tokens")
    layout = base_layout(x_axis, y_axis, right=24)
    layout |= {"showlegend": True, "legend": _LEGEND}
    layout["margin"] = layout["margin"] | {"t": 44, "l": 74}
    return layout


def _line(
    costs: Sequence[Cost],
    values: Sequence[float],
    name: tuple[str, int | None],
    show: Callable[[float], str],
) -> Row:
    label, number = name
    colour = "@ink" if number is None else f"@source{number % NUM_COLOURS}"
    return _trace(costs, values, label, show) | {"line": {"color": colour, "width": 2}}


def _area(costs: Sequence[Cost], values: Sequence[float], name: tuple[str, str]) -> Row:
    label, colour = name
    return _trace(costs, values, label, _flops) | {
        "stackgroup": "one",
        "fillcolor": colour,
        "line": {"color": colour, "width": 0.5},
    }


def _reference(
    costs: Sequence[Cost], value: Callable[[Cost], float], show: Callable[[float], str]
) -> Row:
    values = [value(cost) for cost in costs]
    line = {"color": "@muted", "width": 1.5, "dash": "dash"}
    return _trace(costs, values, "if all layers were full", show) | {"line": line}


def _trace(
    costs: Sequence[Cost], values: Sequence[float], label: str, show: Callable[[float], str]
) -> Row:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": html.escape(label),
        "x": [cost.length for cost in costs],
        "y": [rounded(value) for value in values],
        "customdata": [show(value) for value in values],
        "hovertemplate": f"{html.escape(label)}: %{{customdata}}<extra></extra>",
    }


def _flops(count: float) -> str:
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= limit * 0.9995:
            return f"{count / limit:.4g} {prefix}FLOP"
    return f"{count:.4g} FLOP"
