"""The pattern is expanded once, and a configuration names every rule it breaks."""

from dataclasses import asdict

import pytest

from model.config import ModelConfig
from model.layer_pattern import LAYER_KINDS, KindConfig, LayerSpec, expand_pattern, layer_kinds
from model.position.linear import LinearRope
from model.position.rope import Rope
from train.configuration.typed import read

WINDOWED = LayerSpec("window_rope", window=128, rope=Rope())
FULL = LayerSpec("full_nope", window=None, rope=None)


def test_tiny_preset_is_three_windows_then_one_full():
    assert expand_pattern(ModelConfig()) == (WINDOWED, WINDOWED, WINDOWED, FULL)


def test_full_layers_of_the_8b_shape_are_every_fourth():
    specs = expand_pattern(ModelConfig(num_layers=32))
    assert [i for i, spec in enumerate(specs) if spec == FULL] == [3, 7, 11, 15, 19, 23, 27, 31]
    assert sum(spec == WINDOWED for spec in specs) == 24


def test_pattern_may_end_in_the_middle_of_a_repeat():
    assert expand_pattern(ModelConfig(num_layers=6))[4:] == (WINDOWED, WINDOWED)


def test_every_kind_says_window_and_rotation():
    specs = expand_pattern(
        ModelConfig(layer_pattern=list(LAYER_KINDS), num_layers=6, window=7, chunk=9)
    )
    assert specs == (
        LayerSpec("window_rope", 7, Rope()),
        LayerSpec("window_nope", 7, None),
        LayerSpec("full_rope", None, Rope()),
        LayerSpec("full_nope", None, None),
        LayerSpec("chunk_rope", None, Rope(), chunk=9),
        LayerSpec("chunk_nope", None, None, chunk=9),
    )


def hybrid() -> ModelConfig:
    """Two windows and two rotations in one pattern."""
    far = LinearRope(factor=2.0)
    kinds = {
        "near": KindConfig(like="window_rope", window=5),
        "wide": KindConfig(like="window_rope", window=17, rope=far),
        "window_nope": KindConfig(window=9),
        "late": KindConfig(like="full_nope"),
    }
    pattern = ["near", "wide", "window_nope", "window_rope", "late"]
    return ModelConfig(num_layers=5, layer_pattern=pattern, kinds=kinds)


def test_every_kind_may_have_its_own_window_and_rotation():
    config = hybrid()
    assert config.problems() == []
    assert layer_kinds(config) == {
        "near": LayerSpec("near", 5, Rope()),
        "wide": LayerSpec("wide", 17, LinearRope(factor=2.0)),
        "window_nope": LayerSpec("window_nope", 9, None),
        "window_rope": LayerSpec("window_rope", 128, Rope()),
        "late": LayerSpec("late", None, None),
    }


def test_a_kind_has_its_own_value_or_that_of_the_model():
    kinds = {"full_nope": KindConfig(sinks=False)}
    specs = layer_kinds(ModelConfig(sinks=True, kinds=kinds))
    assert {name: spec.sinks for name, spec in specs.items()} == {
        "window_rope": True,
        "full_nope": False,
    }
    specs = layer_kinds(ModelConfig(kinds={"window_rope": KindConfig(sinks=True)}))
    assert {name: spec.sinks for name, spec in specs.items()} == {
        "window_rope": True,
        "full_nope": False,
    }


def test_the_four_kinds_are_reported_by_their_window_and_further_kinds_by_their_name():
    names = [spec.reported_as for spec in expand_pattern(hybrid())]
    assert names == ["near", "wide", "window", "window", "late"]


def problems(**changes):
    """Everything that is wrong with the default configuration and these values."""
    config, mistakes = read(ModelConfig, asdict(ModelConfig()) | changes, "model")
    return [*mistakes.values(), *config.problems()]


TWO = ["window_rope", "full_nope"]


@pytest.mark.parametrize(
    ("pattern", "kinds", "line"),
    [
        ([*TWO, "near"], {"near": {"like": "window_ropes"}}, ".near.like=window_ropes: must be one of"),
        ([*TWO, "near"], {"near": {}}, ".near.like=: must name the kind it is like"),
        (TWO, {"window_rope": {"like": "full_rope"}}, ".window_rope.like=full_rope: "),
        (TWO, {"full_nope": {"chunk": 5}}, ".full_nope.chunk=5: has no effect"),
        (TWO, {"window_rope": {"window": -1}}, ".window_rope.window=-1: must be a whole number from 0"),
        (TWO, {"full_nope": {"rope": {"base": 9.0}}}, ".full_nope.rope: has no effect"),
        (TWO, {"window_rope": {"rope": {"base": 0.5}}}, ".window_rope.rope.base=0.5: must be above 1"),
        (TWO, {"far": {"like": "full_rope"}}, ".far: has no effect, model.layer_pattern has no far"),
        (TWO, {"full_rope": {"rope": {"base": 9.0}}}, ".full_rope: has no effect"),
        ([*TWO, "full"], {"full": {"like": "full_rope"}}, ".full: a kind's name"),
        ([*TWO, "a b"], {"a b": {"like": "full_rope"}}, ".a b: a kind's name"),
        ([*TWO, "near"], {}, "model.layer_pattern: near is unknown; there are window_rope"),
        (TWO, {"full_nope": {"sinks": False}}, ".full_nope.sinks=False: has no effect, it is that of model.sinks"),
        (TWO, {"full_nope": {"gate_over": "channel"}}, ".full_nope.gate_over=channel: has no effect without a gate"),
        (TWO, {"full_nope": {"qk_norm": True, "qk_norm_at": "after"}}, ".full_nope.qk_norm_at=after: has no effect"),
    ],
)  # fmt: skip
def test_a_wrong_setting_of_a_kind_is_one_line_with_a_way_out(pattern, kinds, line):
    found = problems(layer_pattern=pattern, kinds=kinds)
    assert found[0].removeprefix("model.kinds").startswith(line)
    assert ";" in found[0]
    assert len(found) == 1 or "near" in kinds  # a wrong choice is judged as none


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
