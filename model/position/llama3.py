"""Llama 3.1's scaling: long wavelengths are interpolated, short ones kept, those between blended.

    wavelength   .. original / high ........ original / low ..
    frequency      kept        blended         divided by factor

Source: the released code of Llama 3.1. Shape letters: P pairs.
"""

import math

from torch import Tensor


def llama3(
    frequencies_P: Tensor,
    factor: float,
    *,
    original_length: int,
    low: float = 1.0,
    high: float = 4.0,
) -> Tensor:
    """The scaled frequencies, (P,). A pair that makes `high` or more turns over `original_length` is kept, one that
    makes `low` or fewer is divided by `factor`."""
    turns_P = original_length * frequencies_P / (2.0 * math.pi)
    kept_P = ((turns_P - low) / (high - low)).clamp(0.0, 1.0)
    return kept_P * frequencies_P + (1.0 - kept_P) * frequencies_P / factor
