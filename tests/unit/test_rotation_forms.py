"""Resonance and partial rotation: golden values, what distinguishes them, and the kernel that rotates a part."""

import math

import numpy
import pytest
import torch

from model.at_step import AtStep
from model.config import ModelConfig
from model.kind_at_step import make_kinds
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.longrope import LongRope
from model.position.ntk import NtkRope
from model.position.resonance import wavelengths
from model.position.rope import Rope
from model.position.rotation import Rotation, make_rotation, rotate
from model.position.settings import RopeInput, inverse_frequencies
from model.position.yarn import YarnRope, yarn

D64 = [6, 8, 11, 15, 20, 26, 35, 47, 63, 84, 112, 149, 199, 265, 353, 471, 628, 838, 1117, 1490]
D128 = [
    *(6, 7, 8, 10, 11, 13, 15, 17, 20, 23, 26, 31, 35, 41, 47, 54, 63, 73, 84, 97, 112, 129, 149, 172, 199, 229, 265),
    *(306, 353, 408, 471, 544, 628, 726, 838, 968, 1117, 1290, 1490, 1721, 1987, 2294, 2650, 3060, 3533, 4080, 4712),
    5441,
]  # fmt: skip
TURN = 2.0 * math.pi


def test_golden_wavelengths_of_resonance():
    """Source: computed from arXiv 2403.00071, and the number that its text quotes, above 7e51."""
    assert wavelengths(inverse_frequencies(1e4, 64))[:20].tolist() == D64
    rounded = wavelengths(inverse_frequencies(1e4, 128))
    assert rounded[:48].tolist() == D128
    assert (rounded < 4096).sum() == 46
    assert math.lcm(*map(int, rounded[:46])) == pytest.approx(7.058e51, rel=1e-4)
    golden = [1.047198, 0.785398, 0.571199, 0.418879, 0.314159, 0.241661, 0.179520, 0.133685]
    found = Rope(resonance=True).frequencies(1e4, 64).radians_P[:8]
    numpy.testing.assert_allclose(found, golden, atol=5e-7)


def test_resonance_rounds_in_float64():
    """In float32 pair 61 is rounded to the other side."""
    assert wavelengths(inverse_frequencies(1e6, 128))[61] == 3_287_985
    single = numpy.float32(TURN) / inverse_frequencies(1e6, 128).astype(numpy.float32)
    assert numpy.rint(single)[61] != 3_287_985


def test_pairs_of_resonance_repeat_past_the_trained_length():
    trained = 4096
    radians = Rope(resonance=True).frequencies(1e4, 128).radians_P
    rounded = wavelengths(radians)
    pairs = numpy.flatnonzero(rounded < trained)
    positions = numpy.random.default_rng(0).integers(trained, 1_000_000, size=200)
    for pair in pairs:
        seen = positions % int(rounded[pair])
        assert seen.max() < trained
        numpy.testing.assert_allclose(
            numpy.exp(1j * positions * radians[pair]),
            numpy.exp(1j * seen * radians[pair]),
            atol=1e-8,
        )
    plain, seen = inverse_frequencies(1e4, 128)[0], positions % int(rounded[0])
    assert abs(numpy.exp(1j * positions * plain) - numpy.exp(1j * seen * plain)).max() > 1.0


def test_resonance_rounds_what_the_method_has_scaled_and_keeps_its_factor():
    scaled = yarn(RopeInput(1e4, 128, 64), 8.0, original_length=4096)
    found = YarnRope(factor=8.0, original_length=4096, resonance=True).frequencies(1e4, 128)
    numpy.testing.assert_allclose(TURN / found.radians_P, numpy.rint(TURN / scaled), rtol=1e-15)
    assert found.factor == pytest.approx(1.207944, abs=5e-7)
    long = LongRope(
        original_length=64, short_factors=[1.5] * 4, long_factors=[2.5] * 4, unscaled_tokens=2, resonance=True
    )  # fmt: skip
    found, plain = long.frequencies(1e4, 8, length=99), TURN / inverse_frequencies(1e4, 8)
    numpy.testing.assert_allclose(TURN / found.radians_P, numpy.rint(2.5 * plain), rtol=1e-15)
    numpy.testing.assert_allclose(TURN / found.first_P, numpy.rint(plain), rtol=1e-15)


GEMMA_4 = Rope(rotary_share=0.25, partial="proportional")
MIMO = Rope(rotary_share=64 / 192)


def test_golden_values_of_proportional_rotation():
    """Gemma 4: head 512, base 1e6, a quarter."""
    found = GEMMA_4.frequencies(1e6, 512).radians_P
    assert len(found) == 64
    numpy.testing.assert_allclose(found[[0, 1, 63]], [1, 0.94746353, 0.03337625], rtol=1e-7)
    assert TURN / found[-1] == pytest.approx(188.2532, abs=5e-5)
    halved = LinearRope(factor=2.0, rotary_share=0.25, partial="proportional").frequencies(1e6, 512)
    assert numpy.array_equal(halved.radians_P, found / 2.0)


def test_golden_values_of_ordinary_partial_rotation():
    """MiMo: the first 64 of a head."""
    found = MIMO.frequencies(5e6, 192).radians_P
    assert len(found) == 32
    numpy.testing.assert_allclose(found[[1, 31]], [0.61752876, 3.2387156e-7], rtol=1e-7)
    assert MIMO.frequencies(1e4, 192).radians_P[31] == pytest.approx(1.3335214e-4, rel=1e-7)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("scaled", ["plain", "linear", "ntk", "yarn"])
def test_one_partial_rotation_taken_for_the_other_is_noticed(share: float, scaled: str) -> None:
    """Ordinary: a head of the rotated width. Proportional: the first pairs of the whole head."""
    make = {
        "plain": lambda **part: Rope(**part),
        "linear": lambda **part: LinearRope(factor=2.0, **part),
        "ntk": lambda **part: NtkRope(factor=2.0, **part),
        "yarn": lambda **part: YarnRope(factor=2.0, original_length=4096, **part),
    }[scaled]
    width = int(share * 128)
    ordinary = make(rotary_share=share).frequencies(5e5, 128).radians_P
    proportional = make(rotary_share=share, partial="proportional").frequencies(5e5, 128).radians_P
    assert numpy.array_equal(ordinary, make().frequencies(5e5, width).radians_P)
    assert numpy.array_equal(proportional, make().frequencies(5e5, 128).radians_P[: width // 2])
    assert TURN / ordinary[-1] > 3.0 * TURN / proportional[-1]
    if share == 0.5 and scaled == "plain":
        assert TURN / proportional[-1] == pytest.approx(3619, abs=0.5)
        assert TURN / ordinary[-1] == pytest.approx(2_084_765, abs=0.5)


def test_a_share_of_1_is_the_whole_head_and_fractions_are_rounded_down_as_published() -> None:
    assert numpy.array_equal(Rope().frequencies(1e4, 96).radians_P, inverse_frequencies(1e4, 96))
    assert Rope(rotary_share=0.334).pairs(192) == 32
    assert Rope(rotary_share=0.29, partial="proportional").pairs(100) == 14
    assert (
        DynamicNtkRope(original_length=64, rotary_share=0.5)
        .frequencies(1e4, 128, length=256)
        .radians_P.tolist()
        == NtkRope(factor=4.0).frequencies(1e4, 64).radians_P.tolist()
    )


def rotation(rope: Rope, dtype: torch.dtype = torch.float64) -> Rotation:
    return make_rotation(torch.tensor([0, 3, 70]), 1e4, head_dim=16, dtype=dtype, rope=rope)


def test_a_part_of_the_head_is_rotated_and_the_rest_is_left() -> None:
    torch.manual_seed(0)
    x_THK = torch.randn(3, 2, 16, dtype=torch.float64, requires_grad=True)
    for rope in (Rope(rotary_share=0.5), Rope(rotary_share=0.5, partial="proportional")):
        turned_THK = rotate(x_THK, rotation(rope))
        assert torch.equal(turned_THK[..., 8:], x_THK[..., 8:])
        for position, row in zip((0, 3, 70), range(3), strict=True):
            for pair, theta in enumerate(rope.frequencies(1e4, 16).radians_P):
                a, b = x_THK[row, 1, 2 * pair].item(), x_THK[row, 1, 2 * pair + 1].item()
                cos, sin = math.cos(position * theta), math.sin(position * theta)
                expected = [a * cos - b * sin, a * sin + b * cos]
                found = turned_THK[row, 1, 2 * pair : 2 * pair + 2].tolist()
                assert found == pytest.approx(expected, abs=1e-13)
        upstream_THK = torch.randn_like(x_THK)
        (gradient_THK,) = torch.autograd.grad(turned_THK, x_THK, upstream_THK)
        turns_TP2 = rotation(rope).turns_TP2
        back = Rotation(torch.stack((turns_TP2[..., 0], -turns_TP2[..., 1]), dim=-1))
        torch.testing.assert_close(gradient_THK, rotate(upstream_THK, back), atol=1e-13, rtol=0)


def test_compiled_code_rotates_a_part_alike() -> None:
    x_THK = torch.randn(3, 2, 16, generator=torch.Generator().manual_seed(1))
    part = rotation(Rope(rotary_share=0.5, resonance=True), torch.float32)
    compiled = torch.compile(rotate, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x_THK, part), rotate(x_THK, part), atol=1e-6, rtol=0)


def test_the_length_is_that_of_the_step_and_not_of_a_document() -> None:
    rope = DynamicNtkRope(original_length=64)
    kinds = {"full_rope": KindConfig(rope=rope)}
    model = ModelConfig(head_dim=16, layer_pattern=["full_rope"], kinds=kinds)
    layout = PackedLayout.from_lengths((3, 90, 7))
    for length in (64, 256):
        at = AtStep.of(model, 1e4, (64, length))
        (found,) = make_kinds(at, ["full_rope"], layout, model, torch.float64).values()
        assert found.positioning.rotation is not None
        expected = make_rotation(
            layout.positions_T,
            1e4,
            head_dim=16,
            dtype=torch.float64,
            rope=NtkRope(factor=length / 64),
        )
        turns = found.positioning.rotation.turns_TP2
        torch.testing.assert_close(turns, expected.turns_TP2, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="needs the sequence length"):
        make_kinds(AtStep.of(model, 1e4), ["full_rope"], layout, model, torch.float64)
