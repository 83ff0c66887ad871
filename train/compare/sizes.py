"""The size of a difference of two numbers: absolute, relative, and in units of the last place of float32.

    absolute = |a - b|,   relative = |a - b| / max(|a|, |b|),   units = |a - b| / spacing(max(|a|, |b|))

`spacing(x)` is the distance from x to the next float32. Equal numbers are equal values: NaN is equal to NaN, and 0 to
-0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """The greatest sizes of differences. Infinite where one number is not finite and the other is another one."""

    absolute: float = 0.0
    relative: float = 0.0
    units: float = 0.0

    def or_larger(self, other: "Size") -> "Size":
        """Returns the greater of both in each measure."""
        return Size(
            max(self.absolute, other.absolute),
            max(self.relative, other.relative),
            max(self.units, other.units),
        )


def unequal(a_N: Numbers, b_N: Numbers) -> NDArray[np.bool_]:
    """Returns where two arrays of one shape differ, bool."""
    differ_N: NDArray[np.bool_] = (a_N != b_N) & ~(np.isnan(a_N) & np.isnan(b_N))
    return differ_N


def size_of(a_N: Numbers, b_N: Numbers) -> Size:
    """Returns the greatest sizes of the differences of two arrays (N,) that differ at every place, N at least 1."""
    a_N, b_N = a_N.astype(np.float64), b_N.astype(np.float64)
    if not (np.isfinite(a_N) & np.isfinite(b_N)).all():
        return Size(np.inf, np.inf, np.inf)
    larger_N = np.maximum(np.abs(a_N), np.abs(b_N))
    most = np.finfo(np.float32).max / 2  # the spacing at the largest float32 overflows
    spacing_N = np.spacing(np.minimum(larger_N, most).astype(np.float32)).astype(np.float64)
    with np.errstate(over="ignore"):
        absolute_N = np.abs(a_N - b_N)
    return Size(
        float(absolute_N.max()),
        float((absolute_N / larger_N).max()),
        float((absolute_N / spacing_N).max()),
    )
