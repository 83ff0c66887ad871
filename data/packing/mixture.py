"""The order of documents of each source, and the credits that keep the mix at its weights.

For each token placed in a row, every source gains its weight as credit and the source of the token
pays 1, so the credits always sum to zero.

    place n tokens of s:   credit[i] += n * weight[i] for all i,   credit[s] -= n

Credits count tokens placed, not documents drawn, so a stage has its mix from the first row on, whatever
spans wait in the look-ahead. A change of weights sets all credits to zero: earlier deviations from the
mix are not compensated.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from data.labels import LabelCounts
from data.packing.document_order import shuffled
from data.packing.spans import Span

CHUNK = 512


class LengthSource(LabelCounts, Protocol):
    """Interface of a source for packing: the number of documents, their lengths, and how many targets count."""

    @property
    def num_documents(self) -> int: ...

    def document_lengths(self, documents: np.ndarray) -> np.ndarray: ...


def mixture_weights(names: Sequence[str], weights: Mapping[str, float]) -> tuple[float, ...]:
    """Weights in the order of `names`, summing to 1; 0 for a name that is not given.

    Raises ValueError for an unknown name, a negative or infinite weight, or no positive weight.
    """
    for name, weight in weights.items():
        if name not in names:
            raise ValueError(f"mix.{name}={weight}: no such source; use {', '.join(names)}")
        if not 0 <= weight < float("inf"):
            raise ValueError(f"mix.{name}={weight}: must be 0 or more; use 1.0")
    total = sum(weights.values())
    if total <= 0:
        raise ValueError(f"mix={dict(weights)}: no source has a positive weight; give one 1.0")
    if total == float("inf"):
        raise ValueError(f"mix={dict(weights)}: adds up to infinity; give weights near 1.0")
    return tuple(weights.get(name, 0.0) / total for name in names)


class DocumentOrder:
    """The endless sequence of shuffled documents of one source. drawn: number of documents taken so far."""

    def __init__(self, documents: LengthSource, *, source: int, seed: int) -> None:
        if documents.num_documents < 1:
            raise ValueError(f"source {source}: holds no document; prepare a corpus that does")
        self._documents = documents
        self._source = source
        self._seed = seed
        self._chunk: list[tuple[int, int]] = []
        self._chunk_start = 0
        self.drawn = 0

    def next(self) -> Span:
        """The next document that is not empty, as one span."""
        size = self._documents.num_documents
        for _ in range(size + 1):
            at = self.drawn - self._chunk_start
            if not 0 <= at < len(self._chunk):
                self._load()
                at = 0
            self.drawn += 1
            document, length = self._chunk[at]
            if length:
                epoch = (self.drawn - 1) // size
                return Span(self._source, document, 0, length, epoch)
        raise ValueError(f"source {self._source}: every document is empty; prepare it again")

    def _load(self) -> None:
        size = self._documents.num_documents
        epoch, place = divmod(self.drawn, size)
        places = np.arange(place, min(place + CHUNK, size))
        documents = shuffled(places, size, seed=self._seed, source=self._source, epoch=epoch)
        lengths = self._documents.document_lengths(documents)
        self._chunk = list(zip(documents.tolist(), lengths.tolist(), strict=True))
        self._chunk_start = self.drawn


class Shares:
    """The credits of all sources: how many tokens each is behind its weight in the rows planned so far."""

    def __init__(self, num_sources: int) -> None:
        self._weights = (0.0,) * num_sources
        self._credits = [0.0] * num_sources

    def adopt(self, weights: Sequence[float]) -> None:
        """Use `weights` (positive sum) from now on; a change sets all credits to zero."""
        total = sum(weights)
        normalised = tuple(weight / total for weight in weights)
        if normalised != self._weights:
            self._weights = normalised
            self._credits = [0.0] * len(normalised)

    def most_behind(self) -> int:
        """The source with the largest credit; the first of equals."""
        return max(self._weighted(), key=lambda source: (self._credits[source], -source))

    def within(self, tokens: float) -> list[int]:
        """Sources that are less than `tokens` ahead of their weight, the largest credit first."""
        near = [source for source in self._weighted() if self._credits[source] > -tokens]
        return sorted(near, key=lambda source: (-self._credits[source], source))

    def has_weight(self, source: int) -> bool:
        """Whether the source's weight is above 0."""
        return self._weights[source] > 0

    def spend(self, source: int, tokens: int) -> None:
        """Update the credits after `tokens` of `source` were placed in a row."""
        for other in self._weighted():
            self._credits[other] += tokens * self._weights[other]
        self._credits[source] -= tokens

    def _weighted(self) -> list[int]:
        return [source for source, weight in enumerate(self._weights) if weight > 0]

    def state_dict(self) -> dict[str, list[float]]:
        """Weights and credits as plain JSON."""
        return {"weights": list(self._weights), "credits": list(self._credits)}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore weights and credits from `state`."""
        self._weights = tuple(state["weights"])
        self._credits = list(state["credits"])
