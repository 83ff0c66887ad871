"""Lower bound of the RoPE base for a context length: similar tokens must stay distinguishable from random ones.

    B(m) = sum over the pairs i of cos(m theta_i)            theta_i = base ** (-2i / d) for plain RoPE

B(m) is the mean advantage in score of a key like the query over a random key at the distance m, but for a constant
factor. The reach of a rotation (L_b in the paper) is the largest L with B(m) >= 0 for all m from 0 to L. It is not
monotone in the base: the bases that reach a length are a union of narrow intervals, so two numbers describe them,
the first feasible base and the base from which on all are feasible. Both come from a scan of a grid of bases, because
bisection would find an arbitrary interval.

The sum over a block of distances m = start + row * C + column is one product of matrices,

    B = cos(row C theta) cos(column theta)^T - sin(row C theta) sin(column theta)^T

in float32; where it is too near to 0 to have a sign, B is computed again in float64.

The bound is an argument about one layer and no proof: Llama 3 works at 128k tokens with a base below it.

Source: arXiv 2405.14591. Shape letters: P pairs, M distances.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy
from numpy.typing import NDArray

from model.position.settings import Values

# Lower bounds of the base that the paper publishes, by context length in tokens; they hold for a head dimension of 128,
# which the paper does not say.
PUBLISHED: Mapping[int, float] = MappingProxyType(
    {
        2**10: 4.3e3, 2**11: 1.6e4, 2**12: 2.7e4, 2**13: 8.4e4, 2**14: 3.1e5, 2**15: 6.4e5,
        2**16: 2.1e6, 2**17: 7.8e6, 2**18: 3.6e7, 2**19: 6.4e7, 2**20: 5.1e8,
    }
)  # fmt: skip
# Grid of bases: this many per factor of e, from 12 times the published fit downwards.
PER_E = 800
_LARGEST, _SMALLEST = 1e30, 2.0
# Values of B in float32 are off by less than this for each pair.
_UNCERTAIN = 1e-5
# Distances of one product of matrices.
_BLOCK = 2**15


def similarity(radians_P: Values, distances_M: Values) -> Values:
    """B(m) at each distance in tokens, float64 (M,). radians_P: per token, 0 for a pair that does not rotate."""
    found_M: Values = numpy.cos(numpy.multiply.outer(distances_M, radians_P)).sum(axis=1)
    return found_M


def reach(radians_P: Values, limit: int) -> int:
    """L_b: the largest L <= limit, in tokens, with B(m) >= 0 for every whole distance 0 <= m <= L.

    radians_P: per token, 0 for a pair that does not rotate. limit: at least 0; the time grows with it.
    """
    for start, values_M in _blocks(radians_P, limit):
        negative = _negative(radians_P, start, values_M)
        if negative is not None:
            return negative - 1
    return limit


def reaches(radians_P: Values, length: int) -> bool:
    """Whether B(m) >= 0 for every whole distance 0 <= m <= length; faster than `reach` where it is not."""
    return all(
        _negative(radians_P, start, values_M) is None
        for start, values_M in _blocks(radians_P, length, backwards=True)
    )


def published_fit(length: int) -> float:
    """The paper's fit of its lower bounds, 0.0424 L ** 1.628, of a length in tokens."""
    return float(0.0424 * float(length) ** 1.628)


@dataclass(frozen=True)
class BaseBound:
    """Which bases of a grid reach a length.

    length: in tokens. first: the smallest base that does; the paper tabulates it. safe: the smallest base from which
    on every base of the grid does. top: the largest base of the grid; 0: as `base_bound` finds it.
    """

    length: int
    first: float
    safe: float
    top: float = 0.0


def base_bound(
    length: int,
    radians_of: Callable[[float], Values],
    *,
    top: float = 0.0,
    per_e: int = PER_E,
) -> BaseBound:
    """The first feasible base and the safe one for a rotation, on a grid of bases top * exp(-k / per_e).

    length: in tokens, at least 1. radians_of: radians per token of each pair at a base, (P,), 0 for a pair that does
    not rotate; see `frequencies.py`. top: where the grid ends; 0: at 12 times the published fit. It is raised by
    factors of e until a whole factor of e below it is feasible. Below `first` a whole factor of e is not. per_e: bases
    per factor of e; a coarser grid misses narrow intervals.

    Raises:
        ValueError: no base reaches the length.
    """
    grid = _Grid(top or 12.0 * published_fit(max(length, 64)), per_e, length, radians_of)
    highest = 0
    while (safe := grid.end_of_feasible(highest)) < highest + per_e and grid.base(safe) > _SMALLEST:
        highest -= per_e
        if grid.base(highest) > _LARGEST:
            raise ValueError(f"no base up to {_LARGEST:g} reaches {length} tokens")
    first = grid.first_below(safe)
    return BaseBound(length, grid.base(first), grid.base(safe), grid.base(highest))


class _Grid:
    """Bases by their number, descending from 0 at the top, and which of them reach the length."""

    def __init__(
        self, top: float, per_e: int, length: int, radians_of: Callable[[float], Values]
    ) -> None:
        self.top, self.per_e, self.length, self.radians_of = top, per_e, length, radians_of
        self.known: dict[int, bool] = {}

    def base(self, number: int) -> float:
        return self.top * math.exp(-number / self.per_e)

    def feasible(self, number: int) -> bool:
        if number not in self.known:
            self.known[number] = reaches(self.radians_of(self.base(number)), self.length)
        return self.known[number]

    def end_of_feasible(self, highest: int) -> int:
        """The last number from `highest` on up to which all are feasible; `highest` - 1 if it is not itself."""
        number = highest
        while self.feasible(number) and self.base(number) > _SMALLEST:
            number += 1
        return number - 1

    def first_below(self, safe: int) -> int:
        """The number of the smallest feasible base; steps down while a factor of e has a feasible one."""
        first = safe
        while True:
            below = [
                number
                for number in range(first + self.per_e, first, -1)
                if self.base(number) > _SMALLEST
            ]
            found = next(filter(self.feasible, below), None)
            if found is None:
                return first
            first = found


def _blocks(
    radians_P: Values, limit: int, *, backwards: bool = False
) -> Iterator[tuple[int, NDArray[numpy.float32]]]:
    """Yields the first distance of each block and B, float32, of its distances; together 0 to `limit`."""
    columns = 2 ** ((limit.bit_length() + 1) // 2)
    left_RQ = _halves(_turns(columns * radians_P, limit // columns + 1), -1.0)
    right_QC = _halves(_turns(radians_P, columns), 1.0).T
    rows = max(1, _BLOCK // columns)
    starts = range(0, len(left_RQ), rows)
    for row in reversed(starts) if backwards else starts:
        start = row * columns
        yield start, (left_RQ[row : row + rows] @ right_QC).reshape(-1)[: limit + 1 - start]


def _turns(radians_P: Values, count: int) -> NDArray[numpy.complex128]:
    """exp(i n radians) for n from 0, at least `count` of them, (M, P): products are faster than cosines."""
    found_MP = numpy.ones((1, len(radians_P)), dtype=numpy.complex128)
    while len(found_MP) < count:
        found_MP = numpy.concatenate(
            (found_MP, found_MP * numpy.exp(1j * len(found_MP) * radians_P))
        )
    return found_MP[:count]


def _halves(turns_MP: NDArray[numpy.complex128], sign: float) -> NDArray[numpy.float32]:
    """Cosines and then sines times `sign`, (M, 2P)."""
    both = (turns_MP.real, sign * turns_MP.imag)
    return numpy.concatenate(both, axis=1, dtype=numpy.float32)


def _negative(radians_P: Values, start: int, values_M: NDArray[numpy.float32]) -> int | None:
    """The first distance of a block where B is negative; None: there is none."""
    margin = _UNCERTAIN * len(radians_P)
    low = numpy.flatnonzero(values_M < margin)
    if not len(low):
        return None
    certain = numpy.flatnonzero(values_M[low] < -margin)
    doubtful = low[: certain[0]] if len(certain) else low
    exact = numpy.flatnonzero(similarity(radians_P, (start + doubtful).astype(float)) < 0.0)
    if len(exact):
        return start + int(doubtful[exact[0]])
    return start + int(low[certain[0]]) if len(certain) else None
