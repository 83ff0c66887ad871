"""Position methods against golden values, computed once by other programs than ours."""

import math

import numpy
import pytest
import torch

from model.position.dynamic_ntk import DynamicNtkRope, dynamic_ntk_base
from model.position.linear import LinearRope, interpolate
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope, longrope_attention_factor
from model.position.ntk import NtkRope, ntk_base
from model.position.rope import Rope
from model.position.rotation import make_rotation
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
    scaled = Llama3Rope(factor=8.0, original_length=8192).frequencies(5e5, 128).radians_P
    ratio = scaled / theta
    golden = (1.0, 0.828168, 0.643743, 0.493507, 0.371122, 0.271425, 0.190211, 0.125)
    for pair, value in enumerate(golden, start=28):
        assert ratio[pair] == pytest.approx(value, abs=5e-7)
    assert (ratio == 1.0).sum() == 29
    assert scaled[29] == pytest.approx(2.166571e-3, rel=1e-6)
    assert scaled[63] == pytest.approx(3.068926e-7, rel=1e-6)


@pytest.mark.parametrize(
    ("factor", "length", "base"),
    [(2, 8192, 30_527.74), (2, 16_384, 72_195.86), (4, 8192, 51_293.79), (4, 4096, 1e4), (2, 7, 1e4)],
)  # fmt: skip
def test_golden_bases_of_dynamic_ntk_scaling(factor, length, base):
    given = RopeInput(1e4, 128, 64, length)
    assert dynamic_ntk_base(given, factor, 4096) == pytest.approx(base, abs=5e-3)
    rope = DynamicNtkRope(factor=factor, original_length=4096)
    found = rope.frequencies(1e4, 128, length=length).radians_P
    numpy.testing.assert_allclose(found, inverse_frequencies(base, 128), rtol=1e-6)


def test_dynamic_ntk_at_factor_1_is_the_form_of_the_paper():
    found = DynamicNtkRope(original_length=4096).frequencies(1e4, 128, length=4 * 4096)
    expected = NtkRope(factor=4.0).frequencies(1e4, 128)
    numpy.testing.assert_allclose(found.radians_P, expected.radians_P, rtol=1e-14)


def test_a_method_that_reads_the_length_is_not_computed_without_one():
    with pytest.raises(AssertionError, match="needs the sequence length"):
        DynamicNtkRope(original_length=64).frequencies(1e4, 8)


def test_golden_values_of_yarn_with_the_ramp_of_the_paper():
    rope = YarnRope(factor=8.0, original_length=4096, ramp="paper")
    ratio = rope.frequencies(1e4, 128).radians_P / THETA
    golden = {21: 0.99281, 25: 0.60065, 30: 0.34215, 40: 0.15496, 46: 0.125, 63: 0.125}
    for pair, value in golden.items():
        assert ratio[pair] == pytest.approx(value, abs=5e-6)


def test_the_ramp_and_the_attention_factor_of_olmo_3():
    found = YarnRope(factor=8.0, original_length=8192).frequencies(5e5, 128)
    ratio = found.radians_P / inverse_frequencies(5e5, 128)
    assert (ratio == 1.0).sum() == 19  # pairs 0 to 18
    assert ratio[34] > 0.126
    numpy.testing.assert_allclose(ratio[35:], 0.125, rtol=1e-14)
    assert found.factor == pytest.approx(1.207944, abs=5e-7)


def test_attention_factors_of_deepseek_come_from_both_scales():
    rope = YarnRope(factor=40.0, original_length=4096, mscale=0.707, mscale_all_dim=1.0)
    assert rope.frequencies(1e4, 64).factor == pytest.approx(0.92104, abs=5e-6)
    same = YarnRope(factor=40.0, original_length=4096, mscale=1.0, mscale_all_dim=1.0)
    assert same.frequencies(1e4, 64).factor == 1.0


@pytest.mark.parametrize(("factor", "golden"), [(1, 1.0), (32, 1.190238), (512, 1.322876)])
def test_golden_attention_factors_of_longrope(factor, golden):
    assert longrope_attention_factor(factor, 4096) == pytest.approx(golden, abs=5e-7)


LONG = LongRope(
    factor=4.0,
    original_length=64,
    short_factors=[1.0, 1.0, 1.5, 2.0],
    long_factors=[1.0, 2.0, 3.0, 4.0],
    unscaled_tokens=4,
)


def test_longrope_divides_by_the_factors_of_the_length():
    plain = inverse_frequencies(1e4, 8)
    for length, factors in ((64, LONG.short_factors), (65, LONG.long_factors)):
        found = LONG.frequencies(1e4, 8, length=length)
        numpy.testing.assert_allclose(found.radians_P * factors, plain, rtol=1e-15)
        assert found.factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))


def test_longrope_leaves_the_first_tokens_unscaled():
    turns = make_rotation(
        torch.arange(9), 1e4, head_dim=8, dtype=torch.float64, rope=LONG, length=128
    ).turns_TP2
    factor = math.sqrt(1 + math.log(4) / math.log(64))
    for position in range(9):
        for pair, divisor in enumerate(LONG.long_factors):
            angle = position * 10.0**-pair / (divisor if position >= 4 else 1.0)
            expected = [factor * math.cos(angle), factor * math.sin(angle)]
            assert turns[position, pair].tolist() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    "rope",
    [
        LinearRope(),
        NtkRope(),
        YarnRope(original_length=64),
        YarnRope(original_length=64, ramp="paper"),
        Llama3Rope(original_length=64),
        LongRope(original_length=64, short_factors=[1.0] * 8, long_factors=[1.0] * 8),
        DynamicNtkRope(factor=3.0, original_length=64),
    ],
    ids=lambda rope: f"{rope.scaling} {getattr(rope, 'ramp', '')}",
)
def test_factor_1_is_plain_rotation_exactly(rope):
    """Dynamic NTK: up to the length before scaling, with any factor."""
    found = rope.frequencies(1e4, 16, length=64)
    assert numpy.array_equal(found.radians_P, inverse_frequencies(1e4, 16))
    assert found.factor == 1.0


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
