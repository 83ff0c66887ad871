"""The report's figures of the health of layers: a line for each layer, coloured by kind; damaged rows draw nothing."""

import math
from typing import Any

import pytest

from train.report.layer_figures import layer_figures
from train.report.page import sections_of
from train.report.record import RunRecord

KINDS = {"0": "window_rope", "1": "full_<b>", "2": "window_rope"}


def entry(step: int) -> dict[str, Any]:
    numbers = {
        name: {
            "kind": kind,
            "gradient_norm": 0.5 + step + int(name),
            "update_to_weight": 1e-3,
            "activation_rms": 0.02 * (1 + int(name)),
            "largest_attention_logit": 3.0 - int(name),
        }
        for name, kind in KINDS.items()
    }
    ends = {"gradient_norm": 9.0, "update_to_weight": 0.0, "activation_rms": 1.0}
    return {"embedding": {"kind": "embedding", **ends}, **numbers}


def record(*layers: Any) -> RunRecord:
    rows = [
        {"step": n, "stage": "s", "tokens_seen": 10 * n, "layers": x} for n, x in enumerate(layers)
    ]
    return RunRecord("run", steps=tuple(rows))


def test_each_layer_is_a_line_in_the_colour_of_its_kind() -> None:
    gradient, update, activation, logit = layer_figures(record(None, entry(1), None, entry(3)))
    assert [line["y"] for line in gradient.data] == [[9.0, 9.0], [1.5, 3.5], [2.5, 4.5], [3.5, 5.5]]
    assert gradient.data[1]["x"] == [10, 30]
    colours = [line["line"]["color"] for line in gradient.data]
    assert colours[1] == colours[3] and len(set(colours)) == 3
    assert [line["opacity"] for line in gradient.data] == [1.0, 0.4, 1.0, 1.0]
    assert [line["showlegend"] for line in gradient.data] == [True, True, True, False]
    assert gradient.data[2]["name"] == "full_&lt;b&gt;"
    assert gradient.title == "Gradient norm by layer: the largest is 5.5, of layer 2 (window_rope)"
    assert (
        update.title == "The last measured step changed layers by 0.001 to 0.001 of their weights"
    )
    assert len(update.data) == 3  # the embedding did not change: no place on a log axis
    assert (
        activation.title == "Activations have RMS 0.02 after the first layer, 0.06 after the last"
    )
    assert logit.title == "The largest attention logit is 3, in layer 0 (window_rope)"
    assert len(logit.data) == 3


def test_a_run_without_measured_steps_has_no_figure_and_a_long_one_few_points() -> None:
    assert not any(figure.data for figure in layer_figures(record(None, {})))
    assert "Layers" not in [name for name, text in sections_of(record(None))[0].items() if text]
    lines = layer_figures(record(*map(entry, range(9000))))[0].data
    assert sum(len(line["x"]) for line in lines) <= 4000
    assert lines[0]["x"][-1] == 10 * 8999


@pytest.mark.parametrize(
    "damaged",
    [
        7,
        [1],
        {"0": 3},
        {"0": {"kind": 4, "gradient_norm": "x"}},
        {"0": {"gradient_norm": math.nan}},
    ],
)
def test_damaged_rows_draw_what_can_be_drawn(damaged: Any) -> None:
    figures = layer_figures(record(damaged, entry(1), damaged))
    assert {value for line in figures[0].data for value in line["y"]} >= {9.0, 1.5}
    alone = layer_figures(record(damaged))
    assert not any(figure.data for figure in alone)
    assert alone[0].title == "Gradient norm by layer"
