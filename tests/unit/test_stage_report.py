"""The report on runs whose stages change attention: the table's words, a figure of windows that grow."""

from typing import Any

import pytest

from train.report.record import RunRecord
from train.report.stage_changes import changes_in_words, groups_in_words
from train.report.window_figures import window_figures

WORDS: dict[str, dict[str, Any]] = {
    "full_nope: window from 32 on; window_rope: window 64, no rotation": {
        "full_nope": {"window": {"policy": "ramp", "start": 32, "end": 0}, "rope": None},
        "window_rope": {"window": 64, "position": "none"},
    },
    "far: window from 8 to 1,024, yarn 4, base 500,000": {
        "far": {
            "window": {"start": 8, "end": 1024},
            "rope": {"scaling": "yarn", "factor": 4.0, "base": 5e5},
        }
    },
    "far: rotation, plain RoPE, queries scaled: drope": {
        "far": {
            "position": "as_named",
            "rope": {"scaling": "none", "base": 0.0},
            "position_scale": {"scale": "drope", "trained_length": 8},
        }
    },
    "": {"far": {"window": None}, "odd": [1]},
}


@pytest.mark.parametrize("words", WORDS)
def test_the_table_of_stages_says_what_a_stage_changes(words: str) -> None:
    assert changes_in_words({"kinds": WORDS[words]}) == words
    assert changes_in_words({"kinds": 3}) == ""


def test_the_table_of_stages_says_how_groups_of_parameters_train() -> None:
    group = {"learning_rate_factor": 1.0, "weight_decay_factor": 1.0, "frozen": False}
    groups = {
        "rest": {**group, "frozen": True},
        "long": group,
        "ends": {**group, "learning_rate_factor": 0.1},
    }
    config = {"optimizer": {"groups": groups}}
    assert groups_in_words(config, {}) == "rest: frozen; ends: 0.1 x learning rate"
    change = {"rest": {"frozen": False, "weight_decay_factor": 2.0, "learning_rate_factor": None}}
    words = "rest: 2 x weight decay; ends: 0.1 x learning rate"
    assert groups_in_words(config, {"groups": change}) == words
    assert groups_in_words({"optimizer": {"groups": {"rest": 3}}}, {"groups": []}) == ""


def test_a_window_that_grows_is_drawn_and_one_that_stays_is_not() -> None:
    steps = tuple(
        {"step": n, "tokens_seen": 512 * n, "stage": "first", "loss": 1.0}
        | {"windows": {"full_nope": 30 + 2 * n, "window_rope": 64}}
        for n in range(1, 9)
    )
    later = {"step": 9, "tokens_seen": 5000, "stage": "second", "loss": 1.0}
    grows, stays = window_figures(RunRecord("any", steps=(*steps, later)))
    assert grows.title == "Window of full_nope from 32 to 46"
    assert grows.unit == "keys, log scale"
    (line,) = grows.data
    assert line["y"] == [32, 34, 36, 38, 40, 42, 44, 46]
    assert stays.data == []
    assert window_figures(RunRecord("any", steps=(later,))) == []
