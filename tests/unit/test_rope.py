"""Rotation against golden values and the identities that define it."""

import math

import numpy
import pytest
import torch

from model.position.rotation import make_rotation, rotate
from model.position.settings import inverse_frequencies


def rotation_of(positions, base=10000.0, head_dim=8, dtype=torch.float64):
    return make_rotation(torch.tensor(positions), base, head_dim=head_dim, dtype=dtype)


def test_golden_frequencies():
    # head dimension 8, base 10000: 10000 ** (-2i / 8) = 1, 1/10, 1/100, 1/1000
    frequencies = inverse_frequencies(10000.0, 8)
    assert frequencies.dtype == numpy.float64
    numpy.testing.assert_allclose(frequencies, [1, 0.1, 0.01, 0.001], atol=1e-15, rtol=0)


def test_golden_frequencies_of_the_8b_shape():
    # lambda_63 = 2 pi * 10000 ** (126 / 128) tokens
    slowest = inverse_frequencies(10000.0, 128)[-1]
    assert slowest == pytest.approx(10000 ** (-126 / 128), rel=1e-14)
    assert inverse_frequencies(500000.0, 128)[63] == pytest.approx(3.068926e-7 * 8, rel=1e-6)


def test_adjacent_pairs_are_turned_by_hand_computed_angles():
    x = torch.arange(8, dtype=torch.float64).view(1, 1, 8)
    turned = rotate(x, rotation_of([3]))
    for pair, frequency in enumerate([1.0, 0.1, 0.01, 0.001]):
        a, b = 2.0 * pair, 2.0 * pair + 1
        cos, sin = math.cos(3 * frequency), math.sin(3 * frequency)
        assert turned[0, 0, 2 * pair].item() == pytest.approx(a * cos - b * sin, abs=1e-14)
        assert turned[0, 0, 2 * pair + 1].item() == pytest.approx(a * sin + b * cos, abs=1e-14)


def test_position_zero_is_left_alone():
    x = torch.randn(2, 3, 8, dtype=torch.float64)
    assert torch.equal(rotate(x, rotation_of([0, 0])), x)


def test_scores_depend_on_the_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8, dtype=torch.float64)

    def score(query_position, key_position):
        turned_q = rotate(q, rotation_of([query_position]))
        return (turned_q * rotate(k, rotation_of([key_position]))).sum().item()

    for shift in (1, 77, 4096, 131072):
        assert score(12 + shift, 5 + shift) == pytest.approx(score(12, 5), abs=1e-9)
    assert abs(score(13, 5) - score(12, 5)) > 1e-3


def test_interleaved_equals_half_split_after_the_published_permutation():
    # New row 2i = old row i, new row 2i + 1 = old row i + K / 2: gather [0, 4, 1, 5, 2, 6, 3, 7].
    torch.manual_seed(0)
    positions = [0, 3, 11, 200]
    q, k = torch.randn(2, 4, 1, 8, dtype=torch.float64)
    frequencies = torch.from_numpy(inverse_frequencies(10000.0, 8))
    angles = torch.tensor(positions, dtype=torch.float64)[:, None] * frequencies
    cos, sin = (t.repeat(1, 2)[:, None] for t in (angles.cos(), angles.sin()))

    def half_split(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    gather = [0, 4, 1, 5, 2, 6, 3, 7]
    rotation = rotation_of(positions)
    ours = torch.einsum(
        "thk,shk->ts", rotate(q[..., gather], rotation), rotate(k[..., gather], rotation)
    )
    theirs = torch.einsum("thk,shk->ts", half_split(q), half_split(k))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_gradient_is_the_opposite_turn():
    torch.manual_seed(0)
    x = torch.randn(5, 2, 8, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(rotate(x, rotation_of(range(5))), x, upstream)
    backwards = rotate(upstream, rotation_of([-p for p in range(5)]))
    torch.testing.assert_close(gradient, backwards, atol=1e-14, rtol=0)


def test_bfloat16_is_turned_in_float32_and_far_positions_stay_exact():
    torch.manual_seed(0)
    x = torch.randn(1, 2, 8).bfloat16()
    far = rotation_of([1_000_003], dtype=torch.bfloat16)
    assert far.turns_TP2.dtype == torch.float32
    exact = rotate(x.double(), rotation_of([1_000_003]))
    assert rotate(x, far).dtype == torch.bfloat16
    # One rounding of values below 4 to 8 bits.
    torch.testing.assert_close(rotate(x, far).double(), exact, atol=2**-7, rtol=0)
    torch.testing.assert_close(rotate(x.float(), far).double(), exact, atol=1e-6, rtol=0)


def test_strided_heads_can_be_turned():
    x = torch.randn(3, 4, 8, dtype=torch.float64)
    rotation = rotation_of([0, 1, 2])
    assert torch.equal(rotate(x[:, ::2], rotation), rotate(x, rotation)[:, ::2])
    slices = torch.randn(3, 2, 9, dtype=torch.float64)[..., 1:]
    assert torch.equal(rotate(slices, rotation), rotate(slices.contiguous(), rotation))


def test_a_nope_layer_changes_nothing():
    x = torch.randn(3, 1, 8)
    assert rotate(x, None) is x
