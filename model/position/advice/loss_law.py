"""The law of the loss over the length of the context: L(c) = (alpha / c) ** beta + gamma, and its fit.

    L(c) = A c ** -beta + gamma,   A = alpha ** beta

For a given beta the law is linear in A and gamma, so the fit searches beta alone, and solves the rest exactly
(variable projection). Standard errors are those of least squares at the solution: the roots of the diagonal of

    s^2 inv(J^T J),   s^2 = sum of squared residuals / (N - 3)

where J (N, 3) has the derivatives of L by alpha, beta and gamma at the N points.

Source: arXiv 2309.16039 (Llama 2 Long). Shape letters: N points, B values of beta.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy
from numpy.typing import NDArray

LEAST_POINTS = 4
# Bounds of beta. A fit that ends at one of them is refused: the points do not determine the law.
_LEAST_BETA, _MOST_BETA = 0.01, 8.0
_GRID = 400
_GOLDEN = (math.sqrt(5) - 1) / 2
# Steps of the golden section: the bracket of beta is then as narrow as float64 allows.
_SECTIONS = 70

Values = NDArray[numpy.float64]


class NoFit(ValueError):
    """The points do not determine the law; the message says why, as a clause."""


@dataclass(frozen=True)
class LossLaw:
    """L(c) = (alpha / c) ** beta + gamma, in nats a token. gamma: the loss of an unlimited context."""

    alpha: float
    beta: float
    gamma: float

    def at(self, length: float) -> float:
        """The loss at a context length in tokens."""
        return float((self.alpha / length) ** self.beta + self.gamma)


@dataclass(frozen=True)
class FittedLaw:
    """A fitted law with the standard errors of its three numbers, and the root of s^2 in nats."""

    law: LossLaw
    errors: LossLaw
    residual: float
    num_points: int


# Laws that the paper fits to Llama 2 Long, by size of the model.
LOSS_LAWS: Mapping[str, LossLaw] = MappingProxyType(
    {
        "7B": LossLaw(25.4, 0.45, 1.56),
        "13B": LossLaw(19.5, 0.48, 1.45),
        "34B": LossLaw(17.7, 0.50, 1.41),
        "70B": LossLaw(17.9, 0.51, 1.35),
    }
)


def fit(lengths: Sequence[float], losses: Sequence[float]) -> FittedLaw:
    """Least-squares fit of the law to points (length in tokens, loss in nats a token), each with equal weight.

    Raises:
        NoFit: there are fewer than LEAST_POINTS different lengths, the loss does not fall with the length, or no
            exponent within the bounds is the best.
    """
    lengths_N, losses_N = numpy.asarray(lengths, float), numpy.asarray(losses, float)
    distinct = len(numpy.unique(lengths_N))
    if distinct < LEAST_POINTS:
        raise NoFit(f"at least {LEAST_POINTS} different lengths are needed; there are {distinct}")
    if not (numpy.isfinite(losses_N).all() and (lengths_N > 0).all()):
        raise NoFit("a loss is not finite, or a length not positive")
    if numpy.ptp(losses_N) <= 1e-12 * numpy.abs(losses_N).max():
        raise NoFit("the loss is the same at every length")
    # Lengths relative to their geometric mean: powers stay near 1.
    middle = math.exp(float(numpy.log(lengths_N).mean()))
    beta = _best_beta(lengths_N / middle, losses_N)
    amplitude, gamma, squares = _solve(lengths_N / middle, losses_N, beta)
    if amplitude <= 0:
        raise NoFit("the loss does not fall with the length")
    if not 1.05 * _LEAST_BETA < beta < _MOST_BETA / 1.05:
        raise NoFit(f"the best exponent is not between {_LEAST_BETA:g} and {_MOST_BETA:g}")
    law = LossLaw(middle * amplitude ** (1 / beta), beta, gamma)
    variance = squares / (len(losses_N) - 3)
    return FittedLaw(law, _errors(lengths_N, law, variance), math.sqrt(variance), len(losses_N))


def _solve(ratios_N: Values, losses_N: Values, beta: float) -> tuple[float, float, float]:
    """Returns the best amplitude and gamma for a beta, and the sum of squared residuals."""
    powers_N = ratios_N**-beta
    centred_N = powers_N - powers_N.mean()
    amplitude = float(centred_N @ losses_N / (centred_N @ centred_N))
    gamma = float(losses_N.mean() - amplitude * powers_N.mean())
    residuals_N = losses_N - amplitude * powers_N - gamma
    return amplitude, gamma, float(residuals_N @ residuals_N)


def _best_beta(ratios_N: Values, losses_N: Values) -> float:
    """Returns the beta of the smallest sum of squares: the best of a grid, refined by the golden section."""
    grid = numpy.geomspace(_LEAST_BETA, _MOST_BETA, _GRID)
    best = int(numpy.argmin(_squares(ratios_N, losses_N, grid)))
    low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, _GRID - 1)])
    for _ in range(_SECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        of_left, of_right = _squares(ratios_N, losses_N, numpy.array([left, right]))
        if of_left <= of_right:
            high = right
        else:
            low = left
    return (low + high) / 2


def _squares(ratios_N: Values, losses_N: Values, betas_B: Values) -> Values:
    """Returns the smallest sum of squared residuals for every beta, (B,)."""
    powers_BN = ratios_N ** -betas_B[:, None]
    powers_BN -= powers_BN.mean(axis=1, keepdims=True)
    centred_N = losses_N - losses_N.mean()
    amplitudes_B = powers_BN @ centred_N / (powers_BN**2).sum(axis=1)
    found_B: Values = ((centred_N - amplitudes_B[:, None] * powers_BN) ** 2).sum(axis=1)
    return found_B


def _errors(lengths_N: Values, law: LossLaw, variance: float) -> LossLaw:
    power_N = (law.alpha / lengths_N) ** law.beta
    columns = (
        law.beta / law.alpha * power_N,
        power_N * numpy.log(law.alpha / lengths_N),
        numpy.ones_like(power_N),
    )
    jacobian = numpy.stack(columns, axis=1)
    # Columns of norm 1: the derivative by alpha is much smaller than the others.
    norms = numpy.linalg.norm(jacobian, axis=0)
    try:
        inverse = numpy.linalg.inv((jacobian / norms).T @ (jacobian / norms))
    except numpy.linalg.LinAlgError:
        raise NoFit("the points do not determine the three numbers") from None
    found = numpy.sqrt(numpy.abs(numpy.diagonal(inverse)) * variance) / norms
    if not (numpy.isfinite(found).all() and all(map(math.isfinite, vars(law).values()))):
        raise NoFit("the points do not determine the three numbers")
    return LossLaw(*map(float, found))
