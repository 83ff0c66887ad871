"""The frequencies that a layer uses: those of its rotation, with the pairs that do not turn.

Every formula of this folder reads radians per token of each pair, so a rotation with a scaling (YaRN, Llama 3.1) or a
partial one is judged by what it computes. Shape letters: P = K / 2 pairs of a head, K head dimension.
"""

import numpy

from model.position.fourier import kept
from model.position.settings import RopeSettings, Values


def head_radians(
    rope: RopeSettings, base: float, head_dim: int, *, length: int, trained: int = 0
) -> Values:
    """Radians per token of every pair of a head, float64 (P,); 0 for a pair that does not turn.

    base: used if `rope` has none of its own. length: the sequence length in tokens, for methods that read it.
    trained: for FoPE, the training length or the window, which decides the pairs that turn; 0: `length`. FoPE's further
    tones are left out, and so are the unscaled first tokens of LongRoPE.
    """
    found = numpy.zeros(head_dim // 2)
    radians = rope.frequencies(base, head_dim, length=length).radians_P
    found[: len(radians)] = radians
    if rope.fourier is not None:
        plain = rope.unscaled(base, head_dim)
        found[: len(radians)] *= kept(plain, trained or length)
    return found
