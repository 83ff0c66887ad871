"""RoPE base policies and the bound of arXiv 2405.14591 against published and computed values."""

import re

import pytest

from model.position.advice.base_bound import reaches
from model.position.settings import inverse_frequencies
from train.configuration.schema import StageConfig
from train.configuration.typed import read
from train.schedule.rope_base import BaseCurve, StageFacts, base_curve, safe_base

FACTS = StageFacts(
    tokens=1000,
    sequence_length=4096,
    head_dim=128,
    rotary_reach=4096,
    previous_base=10_000.0,
    previous_length=1024,
)


def curve_of(value: object, facts: StageFacts = FACTS) -> BaseCurve:
    """The curve of a value as YAML has it."""
    sizes = dict.fromkeys(("tokens", "sequence_length", "batch_tokens", "micro_batch_tokens"), 8)
    row, mistakes = read(StageConfig, {**sizes, "rope_base": value})
    if mistakes:
        raise ValueError("\n".join(mistakes.values()))
    assert row is not None
    return base_curve(row.rope_base, facts)


@pytest.mark.parametrize(("length", "safe"), [(1024, 6020), (2048, 2.277e4)])
def test_safe_base_is_the_one_above_which_every_base_is_feasible(length: int, safe: float) -> None:
    # 2 %: the grid's resolution decides where a narrow gap between feasible intervals is seen.
    assert safe_base(length, 128) == pytest.approx(safe, rel=0.02)


def test_safe_base_holds_and_slightly_below_does_not() -> None:
    base = safe_base(512, 64)
    assert reaches(inverse_frequencies(base, 64), 512)
    assert not reaches(inverse_frequencies(base * 0.998, 64), 512)


def test_number_is_constant() -> None:
    curve = curve_of(10_000)
    assert [curve.at(tokens) for tokens in (0, 500, 10**9)] == [10_000.0] * 3


def test_ntk_aware_grows_from_the_previous_stage() -> None:
    # b s^(d/(d-2)) at d=128: s=4 from 1e4 gives 40,889.94.
    assert curve_of("ntk").at(0) == pytest.approx(40_889.94, rel=1e-6)
    assert curve_of({"policy": "ntk"}).last == pytest.approx(40_889.94, rel=1e-6)


def test_ramp_is_log_linear_and_starts_where_the_previous_stage_ended() -> None:
    curve = curve_of({"policy": "ramp", "end": 1e6, "tokens": 800})
    assert curve.at(0) == 1e4
    assert curve.at(400) == pytest.approx(1e5)
    assert curve.at(800) == curve.at(5000) == curve.last == 1e6


def test_steps_change_at_their_tokens() -> None:
    curve = curve_of({"policy": "stepped", "steps": [[0, 1e4], [300, 5e4], [900, 1e5]]})
    found = [curve.at(tokens) for tokens in (0, 299, 300, 899, 900)]
    assert found == pytest.approx([1e4, 1e4, 5e4, 5e4, 1e5])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (0.5, "above 1"),
        (
            "fast",
            "above 1, or a policy (constant, keep, ntk, safe, stepped, ramp)",
        ),
        ({"policy": "rampe", "end": 2.0}, "did you mean ramp"),
        ({"policy": "ramp", "stop": 2.0}, "rope_base.stop: unknown key"),
        ({"policy": "ramp", "end": 1e6, "tokens": 2000}, "1..1000"),
        ({"policy": "stepped", "steps": [[5, 1e4]]}, "start at 0"),
        ({"policy": "constant"}, "rope_base.base: must be given"),
    ],
)
def test_mistakes_say_what_is_right(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        curve_of(value)


def test_first_stage_has_nothing_to_grow_from() -> None:
    first = StageFacts(1000, 4096, 128, 4096, None, None)
    with pytest.raises(ValueError, match="needs a stage before"):
        curve_of("ntk", first)
    with pytest.raises(ValueError, match="needs a start"):
        curve_of({"policy": "ramp", "end": 1e6}, first)
