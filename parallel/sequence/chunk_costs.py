"""Costs of each chunk of a stream for its rank: visible query-key pairs, and keys received from other ranks.

Work. A query at place o of its document sees min(o + 1, window) keys, so the first o queries of a document see

    pairs(o) = r (r + 1) / 2 + (o - r) r        with r = min(o, window)        (full layers: r = o)

and the work of a chunk is a difference of two prefix sums. In layers with chunked attention, attention chunks take
the place of documents. Keys. The queries of a chunk attend one range of keys
before the chunk (see plan.py). Both ends of these ranges ascend with the chunks, so what a rank receives for a chunk
depends only on the previous chunk it holds: the part of the range after that chunk. It has the rest already.

    held chunk      the chunk's range of keys      next held chunk
    [#########]- - - - - [...........................][#########]
               received: this part of the range, or all of it if it starts later

Both are summed over layers, each kind weighted by its number of layers. Integers throughout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.reach import Reach

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ChunkCosts:
    """A stream cut into `num_chunks` equal chunks, under layers of several kinds.

    work: pairs of each chunk, summed over layers. starts: stream position of each chunk, and of the stream's end.
    key_starts: for each kind of layer, the start of the range of keys before each position of `starts`. layers:
    number of layers of each kind.
    """

    chunk_tokens: int
    work: Integers
    starts: Integers
    key_starts: tuple[Integers, ...]
    layers: tuple[int, ...]

    @property
    def num_chunks(self) -> int:
        """Chunks of the whole stream."""
        return len(self.work)

    def between(self, held: Integers, following: Integers) -> Integers:
        """Returns the key tokens received for each chunk of `following` by a rank whose previous chunk is in `held`.

        In `held`, -1 means no previous chunk; in `following`, num_chunks means no further chunk, which costs 0.
        """
        starts, behind = self.starts[following], (held + 1) * self.chunk_tokens
        total = np.zeros_like(starts)
        for layers, key_starts in zip(self.layers, self.key_starts, strict=True):
            total += layers * np.maximum(starts - np.maximum(key_starts[following], behind), 0)
        return total

    def keys(self, held: Integers) -> Integers:
        """Returns the key tokens received by ranks that hold the chunks held[..., :], ascending; shape (...)."""
        before = np.concatenate([np.full_like(held[..., :1], -1), held[..., :-1]], axis=-1)
        received: Integers = self.between(before, held).sum(axis=-1)
        return received


class StreamCosts:
    """Costs of a stream before it is cut: prefix sums from which `cut` computes any number of chunks.

    layers: number of layers of each reach.
    """

    def __init__(self, lengths: Sequence[int], layers: Mapping[Reach, int]) -> None:
        self._layers = layers
        self._pieces = {reach: _Pieces(reach.cut(lengths), reach.window) for reach in layers}
        self._num_tokens = sum(lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole stream."""
        return self._num_tokens

    def cut(self, num_chunks: int) -> ChunkCosts:
        """Returns the costs of the stream in `num_chunks` equal chunks."""
        tokens = self.num_tokens // num_chunks
        assert tokens * num_chunks == self.num_tokens, "chunks are equal"
        borders = np.arange(num_chunks + 1, dtype=np.int64) * tokens
        work = np.zeros(num_chunks, dtype=np.int64)
        key_starts = []
        for reach, layers in self._layers.items():
            pairs, starts = self._pieces[reach].at(borders)
            work += layers * np.diff(pairs)
            key_starts.append(starts)
        for starts in key_starts:
            starts[-1] = borders[-1]
        layers_of_kind = tuple(self._layers.values())
        return ChunkCosts(tokens, work, borders, tuple(key_starts), layers_of_kind)


class _Pieces:
    """The documents of a stream, or their attention chunks, under a window."""

    def __init__(self, lengths: Sequence[int], window: int | None) -> None:
        pieces = np.asarray(lengths, dtype=np.int64)
        self.window = window
        self.starts = _prefix_sums(pieces)
        self.work = _prefix_sums(_pairs(pieces, window))

    def at(self, borders: Integers) -> tuple[Integers, Integers]:
        """Returns for each border the pairs of all queries before it, and the start of the keys before it that
        queries after it attend."""
        # Empty documents start where the next one does: the last start at or before the border counts.
        piece = np.searchsorted(self.starts[:-1], borders, side="right") - 1
        place = borders - self.starts[piece]
        keys = place if self.window is None else np.minimum(place, self.window - 1)
        return self.work[piece] + _pairs(place, self.window), borders - keys


def _prefix_sums(values: Integers) -> Integers:
    return np.concatenate(([0], np.cumsum(values)))


def _pairs(queries: Integers, window: int | None) -> Integers:
    reach = queries if window is None else np.minimum(queries, window)
    return reach * (reach + 1) // 2 + (queries - reach) * reach
