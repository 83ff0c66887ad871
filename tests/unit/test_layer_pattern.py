"""The pattern is expanded once, and a configuration names every rule it breaks."""

from dataclasses import asdict

import pytest

from model.config import ModelConfig
from model.layer_pattern import LAYER_KINDS, LayerSpec, expand_pattern
from train.configuration.typed import read

WINDOWED = LayerSpec(window=128, rotary=True)
FULL = LayerSpec(window=None, rotary=False)


def test_tiny_preset_is_three_windows_then_one_full():
    assert expand_pattern(ModelConfig()) == (WINDOWED, WINDOWED, WINDOWED, FULL)


def test_full_layers_of_the_8b_shape_are_every_fourth():
    specs = expand_pattern(ModelConfig(num_layers=32))
    assert [i for i, spec in enumerate(specs) if spec == FULL] == [3, 7, 11, 15, 19, 23, 27, 31]
    assert sum(spec == WINDOWED for spec in specs) == 24


def test_pattern_may_end_in_the_middle_of_a_repeat():
    assert expand_pattern(ModelConfig(num_layers=6))[4:] == (WINDOWED, WINDOWED)


def test_every_kind_says_window_and_rotation():
    specs = expand_pattern(ModelConfig(layer_pattern=list(LAYER_KINDS), num_layers=4, window=7))
    assert dict(zip(LAYER_KINDS, specs, strict=True)) == {
        "window_rope": LayerSpec(7, True),
        "window_nope": LayerSpec(7, False),
        "full_rope": LayerSpec(None, True),
        "full_nope": LayerSpec(None, False),
    }


def problems(**changes):
    """Everything that is wrong with the default configuration and these values."""
    config, mistakes = read(ModelConfig, asdict(ModelConfig()) | changes, "model")
    return [*mistakes.values(), *config.problems()]


def test_the_default_configuration_is_sound():
    assert ModelConfig().problems() == []


def test_a_window_without_windowed_layers_is_no_problem():
    assert ModelConfig(layer_pattern=["full_rope"], window=4096).problems() == []


def test_odd_heads_are_fine_without_rotation():
    assert ModelConfig(layer_pattern=["full_nope"], head_dim=33).problems() == []


@pytest.mark.parametrize(
    ("change", "key", "way_out"),
    [
        ({"num_layers": 0}, "model.num_layers=0", "from 1 to"),
        ({"vocab_size": -5}, "model.vocab_size=-5", "from 2 to"),
        ({"window": 0}, "model.window=0", "from 1 to"),
        ({"num_heads": 6, "num_kv_heads": 4}, "model.num_heads=6", "[1, 2, 3, 6]"),
        ({"head_dim": 31}, "model.head_dim=31", "use 32"),
        ({"layer_pattern": []}, "model.layer_pattern=[]", "window_rope"),
        ({"layer_pattern": ["windw_rope"]}, "windw_rope", "there are window_rope"),
        ({"num_layers": 2}, "model.num_layers=2", "at least 4 layers"),
        ({"block": "paralel"}, "model.block=paralel", "did you mean parallel?"),
        ({"norm": "layer_norm"}, "model.norm=layer_norm", "did you mean layernorm?"),
        ({"attention_backend": "flash"}, "model.attention_backend=flash", "flash_attn"),
        ({"norm_eps": 0.0}, "model.norm_eps=0.0", "above 0"),
        ({"logit_scale": float("nan")}, "model.logit_scale=nan", "finite"),
        ({"init_std": -1.0}, "model.init_std=-1.0", "above 0"),
    ],
)
def test_one_broken_rule_is_one_line_with_a_way_out(change, key, way_out):
    (line,) = problems(**change)
    assert key in line
    assert way_out in line
    assert "\n" not in line


def test_all_broken_rules_are_reported_together():
    broken = problems(
        num_heads=5, num_kv_heads=2, head_dim=3, norm="batch", block="loop", window=-1
    )
    assert len(broken) == 5
