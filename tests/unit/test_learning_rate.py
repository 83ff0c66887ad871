"""Learning-rate shapes at the tokens where their value is known by hand."""

import pytest

from train.configuration.schema import LearningRateConfig
from train.configuration.typed import read
from train.schedule.learning_rate import learning_rate_at, problems


def at(shape: str, tokens: int, **more: int) -> float:
    config = LearningRateConfig(shape=shape, peak=1.0, final=0.1, warmup_tokens=100, **more)
    return learning_rate_at(config, tokens, 1100)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_warm_up_rises_from_zero_to_peak(shape: str) -> None:
    assert [at(shape, tokens) for tokens in (0, 25, 100)] == pytest.approx([0.0, 0.25, 1.0])


@pytest.mark.parametrize(
    ("shape", "middle", "end"),
    [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)],
)
def test_middle_and_end(shape: str, middle: float, end: float) -> None:
    assert [at(shape, 600), at(shape, 1100)] == pytest.approx([middle, end])


def test_cosine_at_a_quarter() -> None:
    assert at("cosine", 350) == pytest.approx(0.1 + 0.9 * 0.8535533905932737)


def test_wsd_is_flat_and_then_falls_straight() -> None:
    found = [at("wsd", tokens, decay_tokens=200) for tokens in (100, 900, 1000, 1100)]
    assert found == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_every_mistake_is_reported() -> None:
    wrong = {
        "shape": "cos",
        "peak": -1.0,
        "final": float("nan"),
        "warmup_tokens": -5,
        "decay_tokens": 3,
    }
    _, mistakes = read(LearningRateConfig, wrong, "schedule.learning_rate")
    assert list(mistakes) == [f"schedule.learning_rate.{name}" for name in list(wrong)[:4]]
    assert "did you mean cosine?" in mistakes["schedule.learning_rate.shape"]
    wrong = LearningRateConfig("wsd", peak=1.0, final=2.0, warmup_tokens=98, decay_tokens=3)
    assert len(problems(wrong, "schedule.learning_rate", 100)) == 2
    assert problems(LearningRateConfig(shape="wsd"), "k", 100) == [
        "k.decay_tokens=0: shape=wsd needs a fall; give its tokens"
    ]
