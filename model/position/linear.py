"""Position interpolation: `factor` times as many tokens share the angles that were trained.

Source: arXiv 2306.15595. Shape letters: P pairs.
"""

from torch import Tensor


def interpolate(frequencies_P: Tensor, factor: float) -> Tensor:
    """Every pair turns `factor` times slower, (P,)."""
    return frequencies_P / factor
