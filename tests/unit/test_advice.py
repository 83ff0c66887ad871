"""Published formulas about bases, wavelengths and lengths against golden values; each test names their paper."""

import math

import numpy
import pytest

from model.position.advice.adjusted_base import (
    adjusted_granularity,
    decay,
    granularity,
    interpolated_granularity,
)
from model.position.advice.effective_length import (
    effective_length,
    position_frequency,
    reach_of_stack,
)
from model.position.advice.extrapolation import (
    critical_base,
    critical_dimension,
    extrapolation,
    small_bases,
    unclipped_critical_dimension,
    usable_length,
)
from model.position.advice.frequencies import head_radians
from model.position.advice.wavelengths import (
    incomplete,
    kept_pairs,
    precritical,
    resonant_wavelengths,
    turns_within,
    wavelengths,
)
from model.position.fourier import Fourier
from model.position.llama3 import Llama3Rope
from model.position.rope import UNSCALED, Rope
from model.position.settings import inverse_frequencies
from model.reach import WHOLE_DOCUMENT, Reach

HEAD = inverse_frequencies(1e4, 128)


# arXiv 2310.05209.
@pytest.mark.parametrize(
    ("width", "base", "length", "found"),
    [(128, 1e4, 2048, 82), (128, 1e4, 4096, 92), (128, 1e4, 8192, 100), (128, 1e4, 16384, 110),
     (128, 5e5, 8192, 70), (64, 1e4, 512, 32), (96, 1e4, 2048, 62), (128, 5e4, 4096, 78)],
)  # fmt: skip
def test_golden_critical_dimensions(width: int, base: float, length: int, found: int) -> None:
    assert critical_dimension(base, width, length) == found


@pytest.mark.parametrize(
    ("tuned", "base"), [(8192, 26_784), (16384, 71_738), (32768, 192_144), (65536, 514_640)]
)
def test_golden_critical_bases(tuned: int, base: float) -> None:
    assert critical_base(1e4, 4096, tuned) == pytest.approx(base, abs=0.5)


@pytest.mark.parametrize(
    ("base", "length"),
    [(1e4, 4712), (2e4, 7754), (4e4, 12762), (8e4, 21003), (1.6e5, 34565), (5e5, 78400),
     (6e5, 89377), (1e6, 129_027), (1e7, 675_196)],
)  # fmt: skip
def test_golden_usable_lengths(base: float, length: float) -> None:
    assert usable_length(base, 128, 92) == pytest.approx(length, abs=0.5)


def test_golden_small_bases() -> None:
    found = small_bases(4096)
    assert (found.quarter, found.half, found.whole) == pytest.approx((2607.6, 1303.8, 651.9), abs=0.05)  # fmt: skip
    found = small_bases(16384)
    assert (found.quarter, found.half, found.whole) == pytest.approx((10430, 5215, 2608), abs=0.5)


def test_golden_critical_dimensions_of_small_bases() -> None:
    assert unclipped_critical_dimension(500, 128, 4096) == 134
    assert [critical_dimension(base, 128, 4096) for base in (500, 652, 1304, 2608)] == [128, 128, 116, 106]  # fmt: skip


def test_a_base_above_the_critical_one_keeps_the_dimension_of_pretraining() -> None:
    pretrained = {"pretrained_base": 1e4, "pretrained_length": 4096, "width": 128}
    above = extrapolation(1e6, tuned_length=16384, **pretrained)
    assert (above.critical_dimension, round(above.usable_length)) == (92, 129_027)
    below = extrapolation(500, tuned_length=16384, **pretrained)
    assert (below.critical_dimension, below.usable_length) == (128, 16384)


# arXiv 2309.16039.
@pytest.mark.parametrize(
    ("radians", "scores"),
    [(HEAD, (11.314, 10.977, 5.399, 1.799, -0.079, -0.316, -1.058)),
     (HEAD / 8, (11.314, 11.308, 7.490, 4.724, 1.191, 2.373, 0.439)),
     (inverse_frequencies(5e5, 128), (11.314, 11.064, 6.913, 5.569, 3.316, 2.116, 0.370))],
    ids=["RoPE", "interpolated by 8", "base 5e5"],
)  # fmt: skip
def test_golden_decay(radians: numpy.ndarray, scores: tuple[float, ...]) -> None:
    distances = numpy.array([0, 1, 100, 1000, 5000, 10_000, 30_000])
    numpy.testing.assert_allclose(decay(radians, distances), scores, atol=5e-4)


def test_golden_granularity() -> None:
    assert interpolated_granularity(1e4, 0.25) == pytest.approx(0.0271, abs=5e-5)
    assert adjusted_granularity(1e4, 50.0) == pytest.approx(0.0762, abs=5e-5)
    assert granularity(HEAD / 4) == pytest.approx(0.0290, abs=5e-5)
    assert granularity(inverse_frequencies(5e5, 128)) == pytest.approx(0.0788, abs=5e-5)


# arXiv 2403.00071.
def test_golden_resonant_wavelengths() -> None:
    found = resonant_wavelengths(inverse_frequencies(1e4, 64))
    assert found[:20].astype(int).tolist() == [
        6, 8, 11, 15, 20, 26, 35, 47, 63, 84, 112, 149, 199, 265, 353, 471, 628, 838, 1117, 1490,
    ]  # fmt: skip
    assert int(precritical(inverse_frequencies(1e4, 64), 64).sum()) == 9


def test_the_precritical_pairs_at_4096_repeat_after_the_published_number_of_tokens() -> None:
    pairs = precritical(HEAD, 4096)
    assert int(pairs.sum()) == 46
    assert pairs[:46].all()
    whole = resonant_wavelengths(HEAD)[pairs].astype(int).tolist()
    assert math.lcm(*whole) == pytest.approx(7.058e51, rel=1e-4)


# arXiv 2412.17739.
@pytest.mark.parametrize(
    ("width", "length", "count"), [(64, 512, 16), (64, 1024, 18), (128, 512, 31), (128, 4096, 46)]
)
def test_golden_pairs_that_fourier_keeps(width: int, length: int, count: int) -> None:
    radians = inverse_frequencies(1e4, width)
    assert int(kept_pairs(radians, length).sum()) == count
    assert int(incomplete(radians, length).sum()) == width // 2 - count
    assert (turns_within(radians, length) >= 1.0).sum() == count


def test_a_pair_that_does_not_rotate_completes_no_turn_and_is_not_incomplete() -> None:
    radians = numpy.array([1.0, 0.0])
    assert wavelengths(radians).tolist() == [2 * math.pi, math.inf]
    assert not incomplete(radians, 7)[1]
    assert not precritical(radians, 10**9)[1]


def test_golden_position_frequency() -> None:
    found = position_frequency([8, 3, 5])
    assert found.tolist() == [16, 13, 10, 7, 5, 3, 2, 1]
    assert [effective_length(found, least) for least in (17, 10, 1)] == [0, 3, 8]
    assert position_frequency([]).tolist() == []


def test_a_stack_of_windows_reaches_layers_times_window_less_one_plus_one() -> None:
    assert reach_of_stack([Reach(window=4)] * 3, 1000) == 10
    assert reach_of_stack([Reach(window=4)] * 3, 7) == 7
    assert reach_of_stack([], 7) == 1


def test_chunks_end_the_reach_of_a_stack() -> None:
    assert reach_of_stack([Reach(chunk=8)] * 5, 1000) == 8
    # The window leads 3 tokens back over the end of a chunk, the chunk below it to its first token.
    assert reach_of_stack([Reach(chunk=8), Reach(window=4)], 1000) == 11
    assert reach_of_stack([Reach(chunk=8), WHOLE_DOCUMENT], 1000) == 1000


def test_frequencies_of_a_head_have_zeros_for_pairs_that_do_not_turn() -> None:
    half = head_radians(Rope(rotary_share=0.5), 1e4, 128, length=4096)
    numpy.testing.assert_array_equal(half[:32], inverse_frequencies(1e4, 64))
    assert not half[32:].any()
    fourier = head_radians(Rope(fourier=Fourier()), 1e4, 128, length=8192, trained=4096)
    assert numpy.count_nonzero(fourier) == 46
    # Inverse frequencies of the released code of Llama 3.1.
    llama = head_radians(Llama3Rope(factor=8.0, original_length=8192), 5e5, 128, length=131_072)
    assert llama[[29, 63]] == pytest.approx((2.166571e-3, 3.068926e-7), rel=1e-6)
    numpy.testing.assert_array_equal(head_radians(UNSCALED, 1e4, 128, length=1), HEAD)
