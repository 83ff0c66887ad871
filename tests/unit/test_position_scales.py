"""Scales of queries by position: the published formulas, at the values that their sources give."""

import pytest
import torch
from torch import Tensor

from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.none import NoScale
from model.position.scales.scale import PositionScale, TokensInPlace
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.reach import Reach


def at(*positions: int, visible: tuple[int, ...] = (1,), length: int = 1) -> TokensInPlace:
    return TokensInPlace(torch.tensor(positions), torch.tensor(visible) - 1, Reach(), length)


def close(found: Tensor, expected: list[float], places: int) -> None:
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), atol=0.5 * 10**-places, rtol=0
    )


@pytest.mark.parametrize(
    ("scale", "positions", "expected", "places"),
    [
        # methods.md 1.7: attn_scale 0.1, floor_scale 8192.
        (
            Llama4Scale(),
            (0, 8190, 8191, 16383, 32767, 65535, 131071, 262143, 1048575),
            [1.0, 1.0, 1.0693, 1.1099, 1.1609, 1.2197, 1.2833, 1.3497, 1.4860],
            4,
        ),
        # methods.md 13: the two that look alike differ at the end of a block.
        (Llama4Scale(), (8191, 131071), [1.069315, 1.283321], 6),
        (Ministral3Scale(original_length=8192), (8191, 131071), [1.0, 1.277259], 6),
        (Ministral3Scale(original_length=8192), (8192, 131072), [1.069315, 1.283321], 6),
        # methods.md 1.5 and 13: a = 362.
        (SwanScale(), (0, 1024, 8192, 65536), [1.0, 1.2279, 1.5368, 1.8833], 4),
        (SwanScale(), (131072, 262144), [2.000504, 2.117920], 6),
        (NoScale(), (0, 8191), [1.0, 1.0], 15),
    ],
)
def test_factors_by_position(
    scale: PositionScale, positions: tuple[int, ...], expected: list[float], places: int
) -> None:
    close(scale.factors(at(*positions)), expected, places)


def test_ministral_agrees_with_llama_4_except_at_the_last_position_of_a_block() -> None:
    positions = at(*range(64))
    llama = Llama4Scale(floor_scale=8).factors(positions)
    ministral = Ministral3Scale(original_length=8).factors(positions)
    assert (llama != ministral).nonzero().flatten().tolist() == list(range(7, 64, 8))


def test_scalable_softmax_reads_the_number_of_visible_keys() -> None:
    tokens = at(9, 9, 9, visible=(16, 1024, 131072))
    # 0.43 ln(n): 0.43 * 17 ln(2) = 5.066906 for the last.
    close(0.43 * SsmaxScale().factors(tokens), [1.192213, 2.980533, 5.066906], 6)


def test_a_window_bounds_the_number_of_visible_keys() -> None:
    tokens = TokensInPlace(torch.arange(5) + 100, torch.arange(5), Reach(3))
    assert tokens.visible_T.tolist() == [1, 2, 3, 3, 3]


def test_an_attention_chunk_bounds_the_number_of_visible_keys() -> None:
    tokens = TokensInPlace(torch.arange(5) + 100, torch.arange(5), Reach(chunk=3))
    assert tokens.visible_T.tolist() == [1, 2, 3, 1, 2]


def test_scalable_softmax_keeps_the_weight_of_one_high_score() -> None:
    """One score of 3 among n - 1 of -2: its weight, without and with s = 0.43."""
    plain, scaled = [], []
    for n in (8, 64, 512, 4096):
        scores = torch.full((n,), -2.0, dtype=torch.float64)
        scores[-1] = 3.0
        factor = 0.43 * SsmaxScale().factors(at(0, visible=(n,)))
        plain.append(scores.softmax(0)[-1])
        scaled.append((factor * scores).softmax(0)[-1])
    close(torch.stack(plain), [0.954959, 0.702005, 0.225069, 0.034975], 6)
    close(torch.stack(scaled), [0.925868, 0.991825, 0.999236, 0.999930], 6)


def test_the_default_of_scalable_softmax_has_the_mean_factor_one_over_1024_tokens() -> None:
    tokens = at(0, visible=tuple(range(1, 1025)))
    assert float(SsmaxScale().initial * SsmaxScale().factors(tokens).mean()) == pytest.approx(
        1, abs=0.003
    )


@pytest.mark.parametrize(
    ("coefficient", "expected"),
    [
        # methods.md 1.5 and 13, at 2, 4, 8 and 16 times the trained length.
        (0.412, [1.2856, 1.5712, 1.856730, 2.142307]),
        (0.103, [1.0714, 1.1428, 1.214182, 1.285577]),
    ],
)
def test_drope_grows_with_the_length_in_force(coefficient: float, expected: list[float]) -> None:
    scale = DropeScale(1024, coefficient)
    found = [scale.factor(1024 * times) for times in (2, 4, 8, 16)]
    assert found == pytest.approx(expected, abs=5e-5)
    assert found[2:] == pytest.approx(expected[2:], abs=5e-7)
    assert scale.factor(1024) == scale.factor(512) == 1.0
    close(scale.factors(at(3, 5000, length=8192)), [found[2]] * 2, 15)


def test_only_a_scale_with_a_parameter_is_refused_by_a_stage() -> None:
    assert "has a parameter" in SsmaxScale().stage_problem("schedule.stages.a.position_scale")
    for scale in (NoScale(), Llama4Scale(), Ministral3Scale(), SwanScale(), DropeScale(8)):
        assert scale.stage_problem("key") == ""


@pytest.mark.parametrize(
    ("scale", "longest"),
    [(Llama4Scale(floor_scale=8), 7), (Ministral3Scale(original_length=8), 8), (DropeScale(8), 8)],
)
def test_a_scale_says_up_to_which_length_its_factor_is_one(
    scale: PositionScale, longest: int
) -> None:
    for length, is_one in ((longest, True), (longest + 1, False)):
        assert scale.is_one_within(length) is is_one
        factors = scale.factors(
            TokensInPlace(torch.arange(length), torch.arange(length), length=length)
        )
        assert bool((factors == 1).all()) is is_one
    assert not SwanScale().is_one_within(2)
    assert not SsmaxScale().is_one_within(2)
