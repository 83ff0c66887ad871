"""Position methods against golden values, computed once by other programs than ours."""

import math

import numpy
import pytest

from model.position.linear import LinearRope, interpolate
from model.position.llama3 import Llama3Rope, llama3
from model.position.ntk import ntk_base
from model.position.rope import Rope
from model.position.settings import RopeInput, inverse_frequencies
from model.position.yarn import YarnRope, yarn, yarn_attention_factor

HEAD = RopeInput(1e4, 128, 64)
THETA = inverse_frequencies(1e4, 128)


def test_interpolation_divides_every_frequency():
    numpy.testing.assert_allclose(interpolate(THETA, 8.0) * 8.0, THETA, rtol=1e-15)


@pytest.mark.parametrize(
    ("factor", "base"), [(2, 20_221.26), (4, 40_889.94), (8, 82_684.62), (16, 167_198.74)]
)
def test_golden_bases_of_ntk_scaling(factor, base):
    assert ntk_base(1e4, factor, 128) == pytest.approx(base, abs=5e-3)
    # What it is made for: the slowest pair is interpolated in full, the fastest not at all.
    scaled = inverse_frequencies(ntk_base(1e4, factor, 128), 128)
    assert scaled[0] == THETA[0]
    assert scaled[-1] == pytest.approx(THETA[-1] / factor, rel=1e-12)


def test_golden_values_of_yarn_with_the_ramp_of_its_reference_code():
    scaled = yarn(HEAD, 8.0, original_length=4096)
    ratio = scaled / THETA
    for pair, golden in {21: 0.96635, 25: 0.83173, 30: 0.66346, 40: 0.32692, 46: 0.125, 63: 0.125}.items():  # fmt: skip
        assert ratio[pair] == pytest.approx(golden, abs=5e-6)
    assert (ratio == 1.0).sum() == 21
    assert numpy.isclose(ratio, 0.125, rtol=1e-15).sum() == 18
    for pair, golden in {20: 5.623413e-2, 21: 4.705792e-2, 30: 8.847402e-3, 40: 1.033822e-3, 46: 1.666902e-4,
                         63: 1.443477e-5}.items():  # fmt: skip
        assert scaled[pair] == pytest.approx(golden, rel=1e-6)


def test_golden_values_of_yarn_without_rounded_limits():
    scaled = yarn(HEAD, 8.0, original_length=4096, truncate=False)
    assert scaled[30] == pytest.approx(8.947669e-3, rel=1e-6)
    assert scaled[45] == pytest.approx(1.939948e-4, rel=1e-6)


def test_the_ramp_of_gpt_oss_lies_between_its_published_limits():
    theta = inverse_frequencies(150_000, 64)
    scaled = yarn(RopeInput(150_000, 64, 32), 32.0, original_length=4096, truncate=False)
    kept = (scaled / theta - 1 / 32) / (1 - 1 / 32)
    low, high = 8.0928, 17.398
    for pair in range(32):
        expected = 1.0 - min(max((pair - low) / (high - low), 0.0), 1.0)
        assert kept[pair] == pytest.approx(expected, abs=2e-5)


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
        assert ratio[pair] == pytest.approx(value, abs=5e-7)
    assert (ratio == 1.0).sum() == 29
    assert scaled[29] == pytest.approx(2.166571e-3, rel=1e-6)
    assert scaled[63] == pytest.approx(3.068926e-7, rel=1e-6)


def test_a_kind_of_layer_has_its_own_base_and_scaling():
    own = LinearRope(base=5e5, factor=2.0).frequencies(1e4, 8)
    numpy.testing.assert_allclose(own.radians_P, inverse_frequencies(5e5, 8) / 2.0, rtol=1e-15)
    assert own.factor == 1.0
    assert numpy.array_equal(Rope().frequencies(1e4, 8).radians_P, inverse_frequencies(1e4, 8))
    scaled = YarnRope(factor=4.0, original_length=64)
    assert scaled.frequencies(1e4, 8).factor == pytest.approx(0.1 * math.log(4) + 1)
    given = YarnRope(factor=4.0, original_length=64, attention_factor=1.5)
    assert given.frequencies(1e4, 8).factor == 1.5


@pytest.mark.parametrize("head_dim", [2, 16, 128])
@pytest.mark.parametrize("slow", [0.1, 1.0, 3.0])
def test_the_shortest_length_that_is_allowed_scales_the_slow_pairs(head_dim, slow):
    shortest = math.ceil(2 * math.pi * slow)
    shared = {"factor": 2.0, "original_length": shortest}
    for rope in (YarnRope(**shared, beta_slow=slow), Llama3Rope(**shared, low_frequency=slow)):
        assert rope.problems("rope", head_dim) == []
        scaled = rope.frequencies(1e4, head_dim).radians_P
        plain = inverse_frequencies(1e4, head_dim)
        assert bool((scaled <= plain).all())
        if head_dim > 2:
            assert scaled[-1] == pytest.approx(plain[-1] / 2.0, rel=1e-12)
