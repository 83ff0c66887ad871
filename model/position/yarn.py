"""YaRN as its reference code has it: fast pairs are kept, slow ones interpolated, a ramp between.

    pair index   0 ........ low ........ high ........ P - 1
    weight of    1 ........ 1 \\
    the kept                     \\____ 0 ............ 0         kept * theta + (1 - kept) * theta / factor

`low` and `high` are the pairs that turn `fast` and `slow` times over the original length. The ramp is linear
in the pair's INDEX; the paper's formula is linear in the number of turns, and gives other frequencies.

Source: arXiv 2309.00071 and its reference code. Shape letters: P pairs.
"""

import math

import torch
from torch import Tensor

# The ramp of a range without width.
_LEAST_WIDTH = 0.001


def yarn(
    frequencies_P: Tensor,
    factor: float,
    *,
    base: float,
    original_length: int,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> Tensor:
    """The scaled frequencies, (P,).

    fast, slow: turns over `original_length` from which a pair is kept, and up to which it is interpolated.
    truncate: round the limits of the ramp outwards to whole pairs.
    """
    pairs = frequencies_P.shape[0]
    low = _pair_of_turns(fast, pairs, base, original_length)
    high = _pair_of_turns(slow, pairs, base, original_length)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    width = high - low or _LEAST_WIDTH
    index_P = torch.arange(pairs, dtype=frequencies_P.dtype, device=frequencies_P.device)
    kept_P = 1.0 - ((index_P - low) / width).clamp(0.0, 1.0)
    return kept_P * frequencies_P + (1.0 - kept_P) * frequencies_P / factor


def _pair_of_turns(turns: float, pairs: int, base: float, length: int) -> float:
    """Index of the pair that makes so many turns over `length` tokens; not a whole number."""
    return pairs * math.log(length / (2.0 * math.pi * turns)) / math.log(base)
