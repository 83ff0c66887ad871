"""The shuffled order of a source's documents: a keyed permutation with O(1) random access.

Epoch e has document P(seed, source, e)(i) at place i. P is a four-round Feistel network on the
smallest even number of bits that covers the corpus; results outside the corpus are mapped again
until they are inside (cycle walking, Black and Rogaway 2002), at most four network calls on average.
No table is stored or shuffled, so start-up time and memory do not depend on the size of the corpus.
"""

import numpy as np

ROUNDS = 4
GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): uint64 in, well-mixed uint64 out."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(GOLDEN)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def mix_integers(*values: int) -> int:
    """Hashes several integers, in order, to one well-mixed 64-bit integer."""
    state = 0
    for value in values:
        z = (state ^ (value & _MASK)) + GOLDEN & _MASK
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        state = z ^ (z >> 31)
    return state


def shuffled(
    places: np.ndarray, num_documents: int, *, seed: int, source: int, epoch: int
) -> np.ndarray:
    """int64 document numbers at `places` (0 <= place < num_documents) of one epoch of one source."""
    if num_documents <= 1:
        return np.zeros(len(places), dtype=np.int64)
    half = ((num_documents - 1).bit_length() + 1) // 2
    keys = [np.uint64(mix_integers(seed, source, epoch, r)) for r in range(ROUNDS)]
    values = _feistel(places.astype(np.uint64), half, keys)
    outside = np.flatnonzero(values >= num_documents)
    while len(outside):
        values[outside] = _feistel(values[outside], half, keys)
        outside = outside[values[outside] >= num_documents]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half: int, keys: list[np.uint64]) -> np.ndarray:
    low_bits = np.uint64((1 << half) - 1)
    left, right = values >> np.uint64(half), values & low_bits
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & low_bits)
    return np.asarray((left << np.uint64(half)) | right)


def held_out(ordinals: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool: whether each document is held out, from a hash of its number and the seed."""
    draws = mix(mix(ordinals) ^ np.uint64(mix_integers(seed, 0x4845_4C44)))
    return np.asarray(draws < np.uint64(min(_MASK, int(fraction * 2.0**64))))
