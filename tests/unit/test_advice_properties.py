"""Advice about any rotation and any stack of layers against brute force."""

import math

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from model.position.advice.base_bound import base_bound, reach, reaches
from model.position.advice.effective_length import position_frequency, reach_of_stack
from model.position.advice.extrapolation import critical_base
from model.position.settings import inverse_frequencies
from model.reach import Reach

RADIANS = st.builds(
    lambda base, pairs, still: numpy.append(inverse_frequencies(base, 2 * pairs), [0.0] * still),
    st.floats(1.5, 1e9),
    st.integers(1, 40),
    st.integers(0, 3),
)
LIMITS = st.integers(1, 50)
REACHES = st.builds(Reach, st.none() | LIMITS, st.none() | LIMITS)


@settings(max_examples=60, deadline=None)
@given(RADIANS, st.integers(0, 3000))
def test_the_reach_is_that_of_the_sum_written_out(radians: numpy.ndarray, limit: int) -> None:
    sums = numpy.array([numpy.cos(m * radians).sum() for m in range(limit + 1)])
    negative = numpy.flatnonzero(sums < 0.0)
    expected = int(negative[0]) - 1 if len(negative) else limit
    assert reach(radians, limit) == expected
    assert reaches(radians, limit) == (expected == limit)


@settings(max_examples=30, deadline=None)
@given(RADIANS, st.integers(0, 300_000), st.integers(0, 300_000))
def test_a_limit_only_cuts_the_reach(radians: numpy.ndarray, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert reach(radians, low) == min(reach(radians, high), low)


@settings(max_examples=30, deadline=None)
@given(RADIANS, st.integers(2, 8))
def test_interpolation_multiplies_the_reach_at_most(radians: numpy.ndarray, factor: int) -> None:
    """B of the interpolated rotation at factor x m is B of the plain one at m."""
    found = reach(radians, 5000)
    scaled = reach(radians / factor, 5000 * factor)
    assert scaled < factor * (found + 1)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 300), st.sampled_from((16, 48, 64, 100)))
def test_both_bounds_reach_and_nothing_between_safe_and_top_fails(length: int, width: int) -> None:
    found = base_bound(length, lambda base: inverse_frequencies(base, width), per_e=50)
    assert found.first <= found.safe <= found.top
    numbers = range(round(50 * math.log(found.top / found.safe)) + 1)
    between = [found.top * math.exp(-k / 50) for k in numbers]
    for base in (found.first, found.safe, *between):
        assert reaches(inverse_frequencies(base, width), length)


@settings(max_examples=60, deadline=None)
@given(st.lists(REACHES, max_size=5), st.integers(1, 60))
def test_the_reach_of_a_stack_is_that_of_its_masks(stack: list[Reach], length: int) -> None:
    q, k = numpy.indices((length, length))
    seen = q == k
    for one in stack:
        mask = k <= q
        if one.window is not None:
            mask &= q - k < one.window
        if one.chunk is not None:
            mask &= k // one.chunk == q // one.chunk
        # Rows are tokens of this layer's output, columns those that affect it.
        seen = (mask.astype(int) @ seen.astype(int)) > 0
    first = seen.argmax(axis=1)
    assert reach_of_stack(stack, length) == int((numpy.arange(length) - first).max()) + 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_the_position_frequency_is_its_sum_written_out(lengths: list[int]) -> None:
    expected = [sum(max(n - i, 0) for n in lengths) for i in range(max(lengths))]
    assert position_frequency(lengths).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.floats(2.0, 1e8), st.integers(16, 10**6), st.integers(16, 10**7))
def test_at_the_critical_base_the_last_trained_wavelength_is_the_tuned_length(
    base: float, length: int, tuned: int
) -> None:
    """Without the rounding to whole pairs: 2 pi beta_0 ** log_base(T / 2 pi) = T'."""
    share = math.log(length / (2 * math.pi)) / math.log(base)
    reached = 2 * math.pi * critical_base(base, length, tuned) ** share
    assert math.isclose(reached, tuned, rel_tol=1e-9)
