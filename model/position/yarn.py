"""YaRN as in its reference code: fast pairs are kept, slow ones interpolated, with a linear ramp between.

    pair index   0 ........ low ........ high ........ P - 1
    weight of    1 ........ 1 \\
    the kept                     \\____ 0 ............ 0         kept * theta + (1 - kept) * theta / factor

`low` and `high` are the pairs that turn `fast` and `slow` times over the original length. The ramp is linear
in the pair's INDEX; the paper's formula is linear in the number of turns and yields other frequencies.

Source: arXiv 2309.00071 and its reference code. Shape letters: P pairs.
"""

import math

import torch
from torch import Tensor

# Width of the ramp where `low` equals `high`.
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

    fast: pairs with at least this many turns over `original_length` are kept. slow: pairs with at most this many are
    interpolated. truncate: round the ends of the ramp outwards to whole pairs.
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
    """Index (fractional) of the pair that makes `turns` turns over `length` tokens."""
    return pairs * math.log(length / (2.0 * math.pi * turns)) / math.log(base)
