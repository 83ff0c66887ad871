r"""Fourier position embedding (FoPE): each pair turns by a short Fourier series, slow pairs not at all. Settings.

RoPE gives pair m one tone, exp(i w_m n). FoPE removes the tones that do not complete a turn over the training length
N and adds to each other pair the tones of a set W, which holds the kept tones:

    f_m(n) = 1                                                          w_m < 2 pi / N
    f_m(n) = exp(i w_m n) + sum_{w in W} (a cos(w n) + i b sin(w n))    otherwise

The coefficients a and b are drawn once and are not trained; cosines and sines have coefficients of their own, and so
has each key/value group of each layer. `fourier_table.py` draws them and turns queries and keys. The deviation of the
official form follows the number of kept pairs, so a window that ramps changes its coefficients from step to step; in
the paper's form it only adds some.

Source: arXiv 2412.17739, section 4. The released code differs from the paper: see `form`. Shape letters: P pairs.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, Lt


@dataclass
class Fourier:
    """The settings of FoPE."""

    # paper: every kept pair has its own tone and coefficients of deviation sigma. official: as the released code, which
    # mixes the kept tones into at most head_dim / 4 pairs and gives all other pairs a constant turn of 45 degrees.
    form: Literal["paper", "official"] = "paper"
    # Standard deviation of the coefficients; official: gain of the Xavier rule that draws them.
    sigma: Annotated[float, Ge(0), Lt(math.inf)] = 0.3
    # Number of tones in a pair's series; the kept tones come first, then random ones. 0: only the kept tones.
    num_tones: Annotated[int, Ge(0), Le(100_000)] = 0
    # Random seed of the coefficients, which are no parameters and are in no checkpoint.
    seed: Annotated[int, Ge(0)] = 0

    def problems(self, key: str) -> list[str]:
        """Returns every broken rule between these settings, one line each. key: prefix of the fields in messages."""
        if self.form == "official" and self.num_tones:
            return [
                f"{key}.num_tones={self.num_tones}: has no effect with {key}.form=official, which mixes the kept tones "
                "only; drop it"
            ]
        return []


def kept(frequencies_P: np.ndarray, length: int) -> np.ndarray:
    """bool (P,): pairs that complete a turn over `length` tokens, which must be the training length or the window."""
    return np.asarray(frequencies_P >= 2.0 * math.pi / length)


def series_pairs(num_kept: int, head_dim: int, form: str) -> int:
    """Number of pairs whose turn is a series; the other pairs are constant."""
    return num_kept if form == "paper" else min(num_kept, head_dim // 4)


def official_identity(num_kept: int, num_pairs: int) -> np.ndarray:
    """The stepped identity of the released code, (num_kept, num_pairs): pair j has tone j * step, if there is one."""
    step = math.ceil(num_kept / num_pairs) if num_pairs else 1
    found = np.zeros((num_kept, num_pairs))
    for tone in range(0, num_kept, step):
        found[tone, tone // step] = 1.0
    return found


def official_deviation(num_kept: int, num_pairs: int, groups: int, sigma: float) -> float:
    """Deviation that torch's Xavier rule gives a tensor (groups, num_kept, num_pairs) with gain `sigma`."""
    return sigma * math.sqrt(2.0 / ((num_kept + groups) * num_pairs))
