"""Resonance RoPE: every wavelength is rounded to a whole number of tokens.

    wavelength = 2 pi / frequency        rounded to an integer, at least 1        frequency = 2 pi / rounded

A pair whose wavelength is below the trained length then repeats, at later positions, angles that it has in training.
Rounding is in float64, half to even: float32 rounds some wavelengths of large bases otherwise. Source: arXiv
2403.00071. Shape letters: P pairs.
"""

import numpy
from numpy.typing import NDArray


def wavelengths(radians_P: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """The rounded wavelengths in tokens, (P,)."""
    rounded_P: NDArray[numpy.float64] = numpy.maximum(numpy.rint(2.0 * numpy.pi / radians_P), 1.0)
    return rounded_P


def resonant(radians_P: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """The frequencies of the rounded wavelengths, (P,)."""
    found_P: NDArray[numpy.float64] = 2.0 * numpy.pi / wavelengths(radians_P)
    return found_P
