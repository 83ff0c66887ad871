"""Position methods against golden values, computed once by other programs than ours."""

import math
from dataclasses import asdict

import pytest
import torch

from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.config import RopeConfig, yarn_attention_factor
from model.position.frequencies import frequencies, inverse_frequencies
from model.position.linear import interpolate
from model.position.llama3 import llama3
from model.position.ntk import ntk_base
from model.position.yarn import yarn
from train.configuration.typed import read

THETA = inverse_frequencies(1e4, 128)


def test_interpolation_divides_every_frequency():
    torch.testing.assert_close(interpolate(THETA, 8.0) * 8.0, THETA, atol=0, rtol=1e-15)


@pytest.mark.parametrize(
    ("factor", "base"), [(2, 20_221.26), (4, 40_889.94), (8, 82_684.62), (16, 167_198.74)]
)
def test_golden_bases_of_ntk_scaling(factor, base):
    assert ntk_base(1e4, factor, 128) == pytest.approx(base, abs=5e-3)
    # What it is made for: the slowest pair is interpolated in full, the fastest not at all.
    scaled = inverse_frequencies(ntk_base(1e4, factor, 128), 128)
    assert scaled[0] == THETA[0]
    assert scaled[-1].item() == pytest.approx(THETA[-1].item() / factor, rel=1e-12)


def test_golden_values_of_yarn_with_the_ramp_of_its_reference_code():
    scaled = yarn(THETA, 8.0, base=1e4, original_length=4096)
    ratio = scaled / THETA
    for pair, golden in {21: 0.96635, 25: 0.83173, 30: 0.66346, 40: 0.32692, 46: 0.125, 63: 0.125}.items():  # fmt: skip
        assert ratio[pair].item() == pytest.approx(golden, abs=5e-6)
    assert (ratio == 1.0).sum() == 21
    assert torch.isclose(ratio, torch.tensor(0.125, dtype=torch.float64), rtol=1e-15).sum() == 18
    for pair, golden in {20: 5.623413e-2, 21: 4.705792e-2, 30: 8.847402e-3, 40: 1.033822e-3, 46: 1.666902e-4,
                         63: 1.443477e-5}.items():  # fmt: skip
        assert scaled[pair].item() == pytest.approx(golden, rel=1e-6)


def test_golden_values_of_yarn_without_rounded_limits():
    scaled = yarn(THETA, 8.0, base=1e4, original_length=4096, truncate=False)
    assert scaled[30].item() == pytest.approx(8.947669e-3, rel=1e-6)
    assert scaled[45].item() == pytest.approx(1.939948e-4, rel=1e-6)


def test_the_ramp_of_gpt_oss_lies_between_its_published_limits():
    theta = inverse_frequencies(150_000, 64)
    scaled = yarn(theta, 32.0, base=150_000, original_length=4096, truncate=False)
    kept = (scaled / theta - 1 / 32) / (1 - 1 / 32)
    low, high = 8.0928, 17.398
    for pair in range(32):
        expected = 1.0 - min(max((pair - low) / (high - low), 0.0), 1.0)
        assert kept[pair].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("factor", "golden"), [(4, 1.138629), (8, 1.207944), (32, 1.346574)])
def test_golden_attention_factors_of_yarn(factor, golden):
    assert yarn_attention_factor(factor) == pytest.approx(golden, abs=5e-7)


def test_attention_factors_with_the_two_scales_of_deepseek():
    ratio = yarn_attention_factor(40, 0.707) / yarn_attention_factor(40, 1.0)
    assert ratio == pytest.approx(0.92104, abs=5e-6)
    assert yarn_attention_factor(1.0) == 1.0


def test_golden_values_of_llama_3_1():
    theta = inverse_frequencies(5e5, 128)
    scaled = llama3(theta, 8.0, original_length=8192)
    ratio = scaled / theta
    golden = (1.0, 0.828168, 0.643743, 0.493507, 0.371122, 0.271425, 0.190211, 0.125)
    for pair, value in enumerate(golden, start=28):
        assert ratio[pair].item() == pytest.approx(value, abs=5e-7)
    assert (ratio == 1.0).sum() == 29
    assert scaled[29].item() == pytest.approx(2.166571e-3, rel=1e-6)
    assert scaled[63].item() == pytest.approx(3.068926e-7, rel=1e-6)


def test_a_kind_of_layer_has_its_own_base_and_scaling():
    own, factor = frequencies(RopeConfig(base=5e5, scaling="linear", factor=2.0), 1e4, 8)
    torch.testing.assert_close(own, inverse_frequencies(5e5, 8) / 2.0, atol=0, rtol=1e-15)
    assert factor == 1.0
    scheduled, _ = frequencies(RopeConfig(), 1e4, 8)
    assert torch.equal(scheduled, inverse_frequencies(1e4, 8))
    _, factor = frequencies(RopeConfig(scaling="yarn", factor=4.0, original_length=64), 1e4, 8)
    assert factor == pytest.approx(0.1 * math.log(4) + 1)
    _, factor = frequencies(
        RopeConfig(scaling="yarn", factor=4.0, original_length=64, attention_factor=1.5), 1e4, 8
    )
    assert factor == 1.5


YARN = {"scaling": "yarn", "factor": 2.0, "original_length": 64}
LLAMA3 = {**YARN, "scaling": "llama3"}
NAN = float("nan")


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        (RopeConfig(scaling="yearn"), "did you mean yarn"),
        (RopeConfig(factor=2.0), "has no effect with model.kinds.full_rope.rope.scaling=none"),
        (RopeConfig(scaling="linear", factor=0.5), "a finite number from 1 to 1000000"),
        (RopeConfig(scaling="linear"), "scales nothing"),
        (RopeConfig(scaling="linear", factor=NAN), "from 1 to"),
        (RopeConfig(scaling="ntk", factor=1e300), "to 1000000"),
        (RopeConfig(scaling="yarn", factor=2.0), "must be the length before scaling"),
        (RopeConfig(**YARN | {"factor": 1.0}), "scales nothing"),
        (RopeConfig(**YARN | {"original_length": 6}), "no pair makes beta_slow=1 turns"),
        (RopeConfig(**YARN | {"original_length": 18}, beta_slow=3.0), "at least 19"),
        (RopeConfig(**YARN, beta_fast=0.5), "below beta_fast"),
        (RopeConfig(**YARN, beta_slow=NAN), "above 0"),
        (RopeConfig(**YARN, attention_factor=NAN), "from 0 up"),
        (RopeConfig(**LLAMA3 | {"original_length": 0}), "must be the length before scaling"),
        (RopeConfig(**LLAMA3 | {"original_length": 6}), "no pair makes low_frequency=1 turns"),
        (RopeConfig(**LLAMA3, low_frequency=4.0), "below high_frequency"),
        (RopeConfig(base=0.5), "must be above 1"),
        (RopeConfig(base=1.0), "must be above 1"),
        (RopeConfig(base=-1e4), "from 0 up"),
        (RopeConfig(base=NAN), "from 0 up"),
    ],
)  # fmt: skip
def test_mistakes_are_named(rope, says):
    config, mistakes = read(RopeConfig, asdict(rope), "model.kinds.full_rope.rope")
    (line,) = mistakes.values() or config.problems("model.kinds.full_rope.rope", 64)
    assert says in line


def test_ntk_of_a_single_pair_is_refused_and_of_two_is_not():
    rope = RopeConfig(scaling="ntk", factor=2.0)
    (line,) = rope.problems("model.kinds.full_rope.rope", 2)
    assert "needs model.head_dim above 2" in line
    assert rope.problems("model.kinds.full_rope.rope", 4) == []
    model = ModelConfig(
        head_dim=2, layer_pattern=["full_rope"], kinds={"full_rope": KindConfig(rope=rope)}
    )
    assert model.problems() == [line]


@pytest.mark.parametrize("head_dim", [2, 16, 128])
@pytest.mark.parametrize("slow", [0.1, 1.0, 3.0])
def test_the_shortest_length_that_is_allowed_scales_the_slow_pairs(head_dim, slow):
    shortest = math.ceil(2 * math.pi * slow)
    for scaling in ("yarn", "llama3"):
        limits = {"beta_slow": slow} if scaling == "yarn" else {"low_frequency": slow}
        rope = RopeConfig(scaling=scaling, factor=2.0, original_length=shortest, **limits)
        assert rope.problems("rope", head_dim) == []
        scaled, _ = frequencies(rope, 1e4, head_dim)
        plain = inverse_frequencies(1e4, head_dim)
        assert bool((scaled <= plain).all())
        if head_dim > 2:
            assert scaled[-1].item() == pytest.approx(plain[-1].item() / 2.0, rel=1e-12)
