"""FoPE (arXiv 2412.17739): kept pairs, coefficients, degenerate forms, gradients, memory of the table."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

from model.position.fourier import Fourier, kept, official_deviation, official_identity
from model.position.fourier_table import (
    Coefficients,
    FourierRotation,
    FourierSource,
    make_fourier,
)
from model.position.rope import Rope
from model.position.rotation import make_rotation, rotate
from model.position.settings import inverse_frequencies
from model.position.yarn import YarnRope

WIDE = torch.float64


def rotation(
    positions: torch.Tensor, fourier: Fourier, *lengths: int, width: int = 16, groups: int = 2
) -> FourierRotation:
    given = FourierSource(Rope(fourier=fourier), 1e4, width, groups, lengths)
    return make_fourier(positions, given, WIDE)


def drawn(tokens: int, heads: int, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads)
    return torch.randn(tokens, heads, width, generator=generator, dtype=WIDE, requires_grad=True)


@pytest.mark.parametrize(
    ("width", "length", "expected"),
    [(64, 512, 16), (64, 1024, 18), (128, 512, 31), (128, 4096, 46)],
)
def test_pairs_that_complete_a_turn_are_kept(width: int, length: int, expected: int) -> None:
    """Golden values of the paper's shapes, base 10,000."""
    assert kept(inverse_frequencies(1e4, width), length).sum() == expected


@pytest.mark.parametrize(
    ("num_kept", "num_pairs", "own_tones"), [(18, 16, 9), (36, 32, 18), (46, 32, 23), (16, 16, 16)]
)
def test_the_official_identity_is_stepped(num_kept: int, num_pairs: int, own_tones: int) -> None:
    identity = official_identity(num_kept, num_pairs)
    assert identity.sum() == own_tones == (identity.max(axis=0) > 0).sum()


@pytest.mark.parametrize(
    ("num_kept", "heads", "sigma", "expected"),
    [(16, 8, 0.3, 0.02165), (18, 8, 0.3, 0.02080)],
)
def test_the_official_deviation_follows_the_rule_for_three_dimensions(
    num_kept: int, heads: int, sigma: float, expected: float
) -> None:
    """The 60M model at lengths 512 and 1,024."""
    assert official_deviation(num_kept, 16, heads, sigma) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_growing_keeps_the_coefficients_of_earlier_lengths(form: str) -> None:
    short = Coefficients(form, 0.3, 1, 32, (16,), 8, 4)
    grown = dataclasses.replace(short, num_kept=(16, 24))
    for group in range(2):
        before, after = short.drawn(3, group), grown.drawn(3, group)
        pairs = 16
        assert torch.equal(after[:16, :pairs], before[:16, :pairs])
        assert torch.equal(after[24:, :pairs], before[16:, :pairs])
        assert (after[16:24, :pairs] != 0).any()
    assert not torch.equal(short.drawn(3, 0), short.drawn(3, 1))
    assert not torch.equal(short.drawn(3, 0), short.drawn(4, 0))


def test_coefficients_have_the_deviation_that_is_asked_for() -> None:
    found = Coefficients("paper", 0.3, 0, 64, (46,), 18, 1).drawn(0, 0)
    noise = found[:, :46].clone()
    noise[:46] -= torch.eye(46, dtype=WIDE)[..., None]
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    assert not found[:, 46:].any()


def test_without_dropped_pairs_and_noise_it_is_rope() -> None:
    positions = torch.arange(200)
    q, k = drawn(200, 4), drawn(200, 2)
    turned = rotation(positions, Fourier(sigma=0.0), 10**9).of_layer(0, range(2)).turn(q, k)
    plain = make_rotation(positions, 1e4, head_dim=16, dtype=WIDE)
    for ours, x in zip(turned, (q, k), strict=True):
        torch.testing.assert_close(ours, rotate(x, plain), atol=1e-14, rtol=0)


def test_dropped_pairs_do_not_turn_and_the_official_ones_turn_by_45_degrees() -> None:
    positions, x = torch.arange(50), drawn(50, 2)
    paper, _ = rotation(positions, Fourier(), 64).of_layer(0, range(2)).turn(x, x)
    official, _ = rotation(positions, Fourier(form="official"), 64).of_layer(0, range(2)).turn(x, x)
    kept_pairs = int(kept(inverse_frequencies(1e4, 16), 64).sum())
    assert torch.equal(paper[..., 2 * kept_pairs :], x[..., 2 * kept_pairs :])
    dots = (official[..., 8:] ** 2).sum(-1) / (x[..., 8:] ** 2).sum(-1)
    torch.testing.assert_close(dots, torch.full_like(dots, 2.0))


def by_formula(x: torch.Tensor, positions: torch.Tensor, found: FourierRotation) -> torch.Tensor:
    """The sum of the paper, one token, head and pair after the other."""
    source = found.source
    radians = inverse_frequencies(1e4, 16)
    extra = (
        np.pi * torch.rand(source.extra_tones, generator=_tones(source.seed), dtype=WIDE).numpy()
    )
    tones = np.concatenate((radians[: source.num_kept[-1]], extra))
    y = torch.empty_like(x)
    for token, position in enumerate(positions.tolist()):
        for head in range(x.shape[1]):
            coefficients = source.drawn(5, head * source.groups // x.shape[1]).numpy()
            for pair in range(8):
                cos, sin = 1.0, 0.0
                if pair < source.num_kept[-1]:
                    cos = float((np.cos(position * tones) * coefficients[:, pair, 0]).sum())
                    sin = float((np.sin(position * tones) * coefficients[:, pair, 1]).sum())
                a, b = x[token, head, 2 * pair], x[token, head, 2 * pair + 1]
                y[token, head, 2 * pair] = a * cos - b * sin
                y[token, head, 2 * pair + 1] = a * sin + b * cos
    return y


def _tones(seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"fourier/{seed}/tones".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def test_outputs_and_gradients_are_those_of_the_formula() -> None:
    positions = torch.tensor([0, 1, 2, 900, 3])
    found = rotation(positions, Fourier(num_tones=12), 64)
    q, k = drawn(5, 4), drawn(5, 2)
    upstream = drawn(5, 4).detach(), drawn(5, 2).detach()
    outcomes = []
    for run in (
        lambda: found.of_layer(5, range(2)).turn(q, k),
        lambda: tuple(by_formula(x, positions, found) for x in (q, k)),
    ):
        turned = run()
        gradients = torch.autograd.grad(turned, (q, k), upstream)
        outcomes.append([*turned, *gradients])
    for ours, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_a_rank_turns_its_heads_as_the_whole_does() -> None:
    positions, q, k = torch.arange(30), drawn(30, 8), drawn(30, 4)
    found = rotation(positions, Fourier(), 64, groups=4)
    whole = found.of_layer(2, range(4)).turn(q, k)
    part = found.of_layer(2, range(2, 4)).turn(q[:, 4:], k[:, 2:])
    torch.testing.assert_close(part[0], whole[0][:, 4:], atol=1e-14, rtol=0)
    torch.testing.assert_close(part[1], whole[1][:, 2:], atol=1e-14, rtol=0)


def test_pairs_are_dropped_before_yarn_scales_them() -> None:
    rope = YarnRope(factor=4.0, original_length=64, fourier=Fourier(sigma=0.0))
    found = make_fourier(torch.arange(4), FourierSource(rope, 1e4, 16, 1, (64,)), WIDE)
    assert found.source.num_kept == (int(kept(inverse_frequencies(1e4, 16), 64).sum()),)
    assert found.factor == rope.frequencies(1e4, 16).factor > 1.0
