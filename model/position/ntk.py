"""NTK-aware scaling: a larger base, so that the slowest pair turns `factor` times slower and the fastest is unchanged.

Sources: the original post of bloc97, and arXiv 2309.00071, section 3.1.
"""


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    """The base for `factor` times the length: base * factor ** (d / (d - 2)), d = head_dim; needs d > 2."""
    return float(base * factor ** (head_dim / (head_dim - 2)))
