"""The bounds of plain RoPE for common head dimensions and lengths, so that --check need not scan for seconds.

`tests/unit/test_base_bound.py` computes them again.
"""

from collections.abc import Mapping
from types import MappingProxyType

from model.position.advice.base_bound import BaseBound

# First feasible and safe base at lengths of 2 ** 8, 2 ** 9 ... 2 ** 20 tokens, by width of the rotation; five digits.
_SHORTEST = 8
_BOUNDS: Mapping[int, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        32: (
            (2168.6, 7391.6), (12491, 18822), (58176, 1.5308e5), (2.0452e5, 1.6933e6),
            (1.1108e6, 4.1896e6), (3.134e6, 6.2869e7), (2.6829e7, 2.7783e8),
            (1.5825e8, 6.7381e8), (6.5125e8, 3.3156e9), (3.6677e9, 2.5876e10),
            (1.536e10, 1.6207e11), (8.9811e10, 6.1031e11), (4.039e11, 6.0632e11),
        ),
        64: (
            (1412.5, 1952.5), (3442.8, 5399.4), (7756.1, 23040), (29649, 74771),
            (1.0014e5, 9.7786e5), (3.2378e5, 1.9176e6), (1.3593e6, 7.2936e6),
            (4.2597e6, 3.9516e7), (1.6591e7, 2.9483e8), (7.4614e7, 1.0084e9),
            (3.2523e8, 2.6327e9), (1.3671e9, 1.3151e10), (3.9007e9, 5.1157e10),
        ),
        96: (
            (812.89, 1118.1), (2154.5, 3166.2), (4957.9, 12676), (18764, 47320),
            (54618, 2.2795e5), (1.0316e5, 4.7524e5), (5.0195e5, 2.1028e6), (7.2738e5, 6.8754e6),
            (5.0412e6, 2.967e7), (1.6753e7, 1.3922e8), (6.7916e7, 5.0435e8),
            (1.4609e8, 2.916e9), (1.0446e9, 5.305e9),
        ),
        128: (
            (890.56, 890.56), (2067.4, 2937.4), (4294.1, 6025.4), (11596, 22775),
            (26954, 58799), (83832, 3.9448e5), (2.3416e5, 1.3225e6), (6.2999e5, 3.3299e6),
            (2.091e6, 1.4956e7), (4.8724e6, 3.9491e7), (3.2648e7, 1.0894e8),
            (6.3464e7, 5.9838e8), (2.8719e8, 1.925e9),
        ),
        192: (
            (573.55, 666.37), (1518.2, 1976.4), (3110.3, 5404.5), (7676.6, 12468),
            (23374, 44942), (49777, 1.5275e5), (1.6688e5, 4.6163e5), (4.2441e5, 1.2007e6),
            (7.2716e5, 3.8196e6), (3.5871e6, 9.702e6), (9.0773e6, 5.1976e7), (2.43e7, 1.0945e8),
            (8.405e7, 4.1268e8),
        ),
        256: (
            (562.9, 562.9), (1280.9, 1578.2), (2969.8, 4267.3), (6566.1, 10285), (17754, 25703),
            (41319, 93229), (1.0855e5, 2.1915e5), (2.7334e5, 6.0001e5), (7.5306e5, 1.6346e6),
            (1.72e6, 8.1342e6), (4.2558e6, 1.7001e7), (1.5131e7, 4.4499e7),
            (3.9802e7, 1.5372e8),
        ),
    }
)  # fmt: skip


def tabled_bound(length: int, head_dim: int) -> BaseBound | None:
    """The bound of plain RoPE at the next length of the table, which holds for `length` too; None: not in the table.

    length: in tokens. head_dim: width of the rotation.
    """
    row = _BOUNDS.get(head_dim, ())
    number = max((length - 1).bit_length() - _SHORTEST, 0)
    if number >= len(row):
        return None
    return BaseBound(2 ** (number + _SHORTEST), *row[number])
