"""Figures of the health of layers: four numbers over training, a line for each layer in the colour of its kind.

Of one kind, later layers are darker.

The rows are those of `logging.layer_steps` (`layers` in metrics.jsonl). Embedding, final norm and head are dotted.
"""

import html
import math
from collections.abc import Callable

from train.report.axes import Figure, layout_over_tokens
from train.report.record import NUM_COLOURS, RunRecord
from train.report.rows import Row, finite_value, mapping, rounded

# Points of all lines of a figure: a longer run shows every k-th measured step.
_POINTS = 4000
_DASHES = ("solid", "dash", "dashdot")
_GRADIENT, _UPDATE = "gradient_norm", "update_to_weight"
_ACTIVATION, _LOGIT = "activation_rms", "largest_attention_logit"
_UNITS = {
    _GRADIENT: "L2 norm before clipping, log scale · darker: later layers",
    _UPDATE: "norm of a step's change over norm of the weights, log scale",
    _ACTIVATION: "RMS of the residual stream after each layer, log scale",
    _LOGIT: "largest logit of all heads and visible pairs, as the softmax takes it",
}


def layer_figures(record: RunRecord) -> list[Figure]:
    """Returns a figure for each number; without traces if no step measured it."""
    rows = [row for row in record.steps if mapping(row, "layers")]
    kinds: dict[str, str] = {}
    for row in rows:
        for name, numbers in mapping(row, "layers").items():
            if isinstance(numbers, dict):
                kinds.setdefault(str(name), str(numbers.get("kind", "")))
    return [_figure(record, rows, kinds, number) for number in _UNITS]


def _figure(record: RunRecord, rows: list[Row], kinds: dict[str, str], number: str) -> Figure:
    stride = math.ceil(len(rows) * len(kinds) / _POINTS) or 1
    rows = rows[::-stride][::-1]  # always includes the last measured step
    colours = {kind: index for index, kind in enumerate(dict.fromkeys(kinds.values()))}
    data, shown = list[Row](), set[str]()
    for name, kind in kinds.items():
        values = [finite_value(mapping(mapping(row, "layers"), name), number) for row in rows]
        if number != _LOGIT:  # a log axis has no place for 0
            values = [value if value and value > 0 else None for value in values]
        if any(value is not None for value in values):
            style = _style(kind, colours[kind], is_layer=name.isdecimal())
            line = _line(rows, values, _title_of(name, kind))
            strength = {"opacity": _strength(name, kind, kinds), "showlegend": kind not in shown}
            data.append(line | style | strength)
            shown.add(kind)
    axis: Row = {} if number == _LOGIT else {"type": "log", "tickformat": "~g"}
    layout = layout_over_tokens(record, axis)
    layout |= {"showlegend": True, "hovermode": "closest"}
    layout["margin"] = layout["margin"] | {"t": 64}
    layout["legend"] = {"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom"}
    title = _TITLES[number](_newest(rows, kinds, number))
    return Figure(f"layers_{number}", title, _UNITS[number], data, layout, height=320)


def _line(rows: list[Row], values: list[float | None], title: str) -> Row:
    words = ["none" if value is None else f"{value:.4g}" for value in values]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(rows) < 25 else "lines",
        "x": [row["tokens_seen"] for row in rows],
        "y": [rounded(value) for value in values],
        "customdata": [[row["step"], said] for row, said in zip(rows, words, strict=True)],
        "hovertemplate": f"<b>{title}</b> · step %{{customdata[0]}}<br>%{{customdata[1]}}<extra></extra>",
    }


def _style(kind: str, index: int, *, is_layer: bool) -> Row:
    colour = f"@source{index % NUM_COLOURS}"
    dash = _DASHES[index // NUM_COLOURS % len(_DASHES)] if is_layer else "dot"
    return {
        "name": html.escape(kind.replace("_", " ") if not is_layer else kind),
        "legendgroup": html.escape(kind),
        "line": {"color": colour, "width": 1.5, "dash": dash},
        "marker": {"color": colour, "size": 4},
    }


def _strength(name: str, kind: str, kinds: dict[str, str]) -> float:
    """Returns the opacity of a line, which grows with the layer among those of its kind up to 1."""
    alike = [other for other in kinds if kinds[other] == kind]
    return 1.0 if len(alike) == 1 else round(0.4 + 0.6 * alike.index(name) / (len(alike) - 1), 3)


def _title_of(name: str, kind: str) -> str:
    """Returns what a line is called: a layer with its number and kind, or an end."""
    return html.escape(f"layer {name}, {kind}" if name.isdecimal() else name.replace("_", " "))


def _newest(rows: list[Row], kinds: dict[str, str], number: str) -> list[tuple[float, str]]:
    """Returns the values of all layers, in order, at the last step that has any, each with the layer's name."""
    for row in reversed(rows):
        layers = mapping(row, "layers")
        found = [
            (value, f"layer {name} ({kind})")
            for name, kind in kinds.items()
            if name.isdecimal()
            and (value := finite_value(mapping(layers, name), number)) is not None
        ]
        if found:
            return found
    return []


def _gradient_title(found: list[tuple[float, str]]) -> str:
    if not found:
        return "Gradient norm by layer"
    value, where = max(found)
    return f"Gradient norm by layer: the largest is {value:.2g}, of {where}"


def _update_title(found: list[tuple[float, str]]) -> str:
    values = [value for value, _ in found]
    if not values:
        return "Update to weight by layer"
    return f"The last measured step changed layers by {min(values):.2g} to {max(values):.2g} of their weights"


def _activation_title(found: list[tuple[float, str]]) -> str:
    if not found:
        return "Activations by layer"
    return f"Activations have RMS {found[0][0]:.2g} after the first layer, {found[-1][0]:.2g} after the last"


def _logit_title(found: list[tuple[float, str]]) -> str:
    if not found:
        return "Largest attention logit by layer"
    value, where = max(found)
    return f"The largest attention logit is {value:.3g}, in {where}"


_TITLES: dict[str, Callable[[list[tuple[float, str]]], str]] = {
    _GRADIENT: _gradient_title,
    _UPDATE: _update_title,
    _ACTIVATION: _activation_title,
    _LOGIT: _logit_title,
}
