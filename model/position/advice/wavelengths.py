"""Wavelengths: which pairs complete a turn within a length, and which of them Resonance RoPE makes whole.

    wavelength_i = 2 pi / theta_i tokens

A pair with a wavelength above the training length (or the window) meets angles beyond it that training never had.
FoPE removes these pairs (arXiv 2412.17739). Resonance RoPE rounds the wavelengths of the others, so that they repeat
angles of training (arXiv 2403.00071): these pairs are called pre-critical.

Shape letters: P pairs. A pair that does not rotate has 0 radians and an infinite wavelength.
"""

import numpy
from numpy.typing import NDArray

from model.position import resonance
from model.position.fourier import kept
from model.position.settings import Values

Pairs = NDArray[numpy.bool_]


def wavelengths(radians_P: Values) -> Values:
    """Tokens of a turn of each pair, (P,); infinite for a pair that does not turn."""
    with numpy.errstate(divide="ignore"):
        found_P: Values = 2.0 * numpy.pi / radians_P
    return found_P


def resonant_wavelengths(radians_P: Values) -> Values:
    """Wavelengths as Resonance RoPE rounds them, to whole tokens and at least 1, (P,)."""
    with numpy.errstate(divide="ignore"):
        return resonance.wavelengths(radians_P)


def precritical(radians_P: Values, length: int) -> Pairs:
    """bool (P,): pairs whose rounded wavelength is below the training length in tokens."""
    return numpy.asarray(resonant_wavelengths(radians_P) < length)


def turns_within(radians_P: Values, length: int) -> Values:
    """Number of turns of each pair over `length` tokens, (P,)."""
    return length * radians_P / (2.0 * numpy.pi)


def kept_pairs(radians_P: Values, length: int) -> Pairs:
    """bool (P,): pairs that FoPE keeps: they complete a turn over `length` tokens.

    length: the training length, or the window if that is shorter.
    """
    return kept(radians_P, length)


def incomplete(radians_P: Values, length: int) -> Pairs:
    """bool (P,): pairs that turn, and complete no turn over `length` tokens."""
    return ~kept(radians_P, length) & (radians_P > 0.0)
