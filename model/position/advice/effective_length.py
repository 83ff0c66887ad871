"""Effective lengths: how often each position is trained, and how far a stack of windows carries information.

    f(i) = sum over documents of max(length - i, 0)            position-frequency: the effective length grows with f(i)

A stack of k windowed layers carries information over k (W - 1) + 1 tokens; a chunked layer carries none over the end of
its chunk, so a further layer with the same chunks adds nothing.

Sources: position-frequency: arXiv 2410.18745 (STRING); windows: `reach.py`. Shape letters: N positions.
"""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from model.reach import Reach

Counts = NDArray[numpy.int64]


def position_frequency(lengths: Sequence[int] | Counts) -> Counts:
    """f(i) of every distance i from 0 to the longest document - 1, int64 (N,).

    lengths: tokens of each document; with documents kept apart, those of the attention documents.
    """
    found = numpy.asarray(lengths, dtype=numpy.int64)
    num_of_length = numpy.bincount(found)
    longer_N = num_of_length[::-1].cumsum()[::-1][1:]
    frequency_N: Counts = longer_N[::-1].cumsum()[::-1]
    return frequency_N


def effective_length(frequency_N: Counts, least: int) -> int:
    """Number of positions, from 0, that occur at least `least` times."""
    return int((frequency_N >= least).sum())


def reach_of_stack(reaches: Sequence[Reach], length: int) -> int:
    """Tokens that can affect the last layer's output at one token, itself included; the most over all tokens.

    reaches: of the layers, from the first to the last. length: of the document, in tokens.
    """
    last_N = numpy.arange(length, dtype=numpy.int64)
    first_N = last_N.copy()
    for reach in reversed(reaches):
        if reach.limit is None:
            return length
        first_N = _first_seen(first_N, reach)
    return int((last_N - first_N).max()) + 1


def _first_seen(place_N: Counts, reach: Reach) -> Counts:
    """The first token that each token sees, by places in the document."""
    found_N = numpy.zeros_like(place_N)
    if reach.window is not None:
        found_N = numpy.maximum(found_N, place_N - (reach.window - 1))
    if reach.chunk is not None:
        found_N = numpy.maximum(found_N, place_N // reach.chunk * reach.chunk)
    return found_N
