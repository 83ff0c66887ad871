"""Position interpolation: the trained range of angles covers `factor` times as many tokens.

Source: arXiv 2306.15595. Shape letters: P pairs.
"""

from torch import Tensor


def interpolate(frequencies_P: Tensor, factor: float) -> Tensor:
    """All frequencies divided by `factor`, (P,)."""
    return frequencies_P / factor
