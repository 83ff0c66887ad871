"""The law of the loss over the context: published values give back published numbers; what is no fit is refused."""

import itertools

import numpy
import pytest

from model.position.advice.loss_law import LOSS_LAWS, LossLaw, NoFit, fit

# arXiv 2309.16039: the law of the 7B model, and its values in four decimals at these lengths.
LENGTHS, LOSSES = (1024, 4096, 8192, 16384, 32768), (1.7495, 1.6615, 1.6343, 1.6144, 1.5998)
GOLDEN = LOSS_LAWS["7B"]


def numbers(law: LossLaw) -> tuple[float, float, float]:
    return law.alpha, law.beta, law.gamma


def test_golden_losses_of_the_7b_law() -> None:
    assert [GOLDEN.at(length) for length in LENGTHS] == pytest.approx(LOSSES, abs=5e-5)


def test_the_fit_of_the_published_values_is_the_published_law_within_their_rounding() -> None:
    # What half a unit of the fourth decimal in each value can make of the three numbers.
    rounding = [
        numbers(fit(LENGTHS, [GOLDEN.at(c) + d for c, d in zip(LENGTHS, shifts, strict=True)]).law)
        for shifts in itertools.product((-5e-5, 5e-5), repeat=5)
    ]
    low, high = numpy.min(rounding, axis=0), numpy.max(rounding, axis=0)
    found = fit(LENGTHS, LOSSES)
    for law in (found.law, GOLDEN):
        assert (numpy.array(numbers(law)) >= low).all()
        assert (numpy.array(numbers(law)) <= high).all()
    assert found.law.alpha == pytest.approx(25.4, abs=0.1)
    assert (round(found.law.beta, 2), round(found.law.gamma, 2)) == (0.45, 1.56)
    assert found.residual < 5e-5


@pytest.mark.parametrize("size", LOSS_LAWS)
def test_values_of_a_law_give_it_back(size: str) -> None:
    law = LOSS_LAWS[size]
    found = fit(LENGTHS, [law.at(length) for length in LENGTHS])
    assert numbers(found.law) == pytest.approx(numbers(law), rel=1e-8)
    assert numbers(found.errors) == pytest.approx((0, 0, 0), abs=1e-8)


def test_a_least_squares_fit_has_no_better_neighbour() -> None:
    lengths, losses = (32, 64, 128, 256, 512), (4.1, 3.7, 3.55, 3.4, 3.39)

    def squares(law: LossLaw) -> float:
        return sum((law.at(c) - loss) ** 2 for c, loss in zip(lengths, losses, strict=True))

    best = fit(lengths, losses).law
    for step in itertools.product((-1e-4, 0, 1e-4), repeat=3):
        law = LossLaw(*(value * (1 + d) for value, d in zip(numbers(best), step, strict=True)))
        assert squares(law) >= squares(best) - 1e-12


def test_standard_errors_are_the_spread_of_fits_of_noisy_points() -> None:
    random, lengths = numpy.random.default_rng(0), 2.0 ** numpy.arange(5, 16)
    fits = [
        fit(lengths.tolist(), [GOLDEN.at(c) + random.normal(0, 0.002) for c in lengths])
        for _ in range(100)
    ]
    spread = numpy.std([numbers(one.law) for one in fits], axis=0)
    told = numpy.mean([numbers(one.errors) for one in fits], axis=0)
    # Of 100 fits a standard deviation has an error of 7 %; three of them.
    assert told == pytest.approx(spread, rel=0.21)


@pytest.mark.parametrize(
    ("lengths", "losses", "why"),
    [
        ((64, 128, 256), (3.0, 2.9, 2.8), "there are 3"),
        ((64, 128, 256, 256), (3.0, 2.9, 2.8, 2.8), "there are 3"),
        ((64, 128, 256, 512), (2.0, 2.0, 2.0, 2.0), "the same at every length"),
        ((64, 128, 256, 512), (1.0, 1.5, 1.7, 1.8), "does not fall"),
        ((64, 128, 256, 512), (4.0, 3.0, 2.0, 1.0), "best exponent"),
        ((64, 128, 256, 512), (3.0, 2.5, 2.5, 2.5), "best exponent"),
        ((64, 128, 256, 512), (3.0, float("nan"), 2.5, 2.5), "not finite"),
        ((0, 128, 256, 512), (3.0, 2.8, 2.6, 2.5), "not positive"),
    ],
)
def test_points_that_do_not_determine_the_law_are_refused(
    lengths: tuple[float, ...], losses: tuple[float, ...], why: str
) -> None:
    with pytest.raises(NoFit, match=why):
        fit(lengths, losses)
