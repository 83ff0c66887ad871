"""The documents of each source in their order, and how many tokens each source is owed.

Tokens placed in rows track the weights: every source earns its weight of each token placed and pays
for its own, so the credits always sum to zero.

    place n tokens of s:   credit[i] += n * weight[i] for all i,   credit[s] -= n

What counts is tokens placed, not documents drawn, so a stage's mix holds from its first row on, no
matter what is waiting in the look-ahead. A change of weights starts all credits at zero: nothing
is caught up.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from data.packing.document_order import shuffled
from data.packing.spans import Span

CHUNK = 512


class LengthSource(Protocol):
    """Documents as far as packing knows them: how many, and how long."""

    @property
    def num_documents(self) -> int: ...

    def document_lengths(self, documents: np.ndarray) -> np.ndarray: ...


def mixture_weights(names: Sequence[str], weights: Mapping[str, float]) -> tuple[float, ...]:
    """Weights in the order of `names`, summing to 1; a name that is not given weighs nothing.

    ValueError for an unknown name, a negative or infinite weight, or no positive weight.
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
    """The endless shuffled documents of one source; `drawn` says how many were taken."""

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
        """The next document that is not empty, whole."""
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
    """Who is how far behind its weight in the tokens of the rows planned so far."""

    def __init__(self, num_sources: int) -> None:
        self._weights = (0.0,) * num_sources
        self._credits = [0.0] * num_sources

    def adopt(self, weights: Sequence[float]) -> None:
        """Go by `weights` (positive sum) from now on; a change forgets what was owed before."""
        total = sum(weights)
        normalised = tuple(weight / total for weight in weights)
        if normalised != self._weights:
            self._weights = normalised
            self._credits = [0.0] * len(normalised)

    def most_behind(self) -> int:
        """The source to which the most tokens are owed; the first of several."""
        return max(self._weighted(), key=lambda source: (self._credits[source], -source))

    def within(self, tokens: float) -> list[int]:
        """Sources less than `tokens` ahead of their weight, those furthest behind first."""
        near = [source for source in self._weighted() if self._credits[source] > -tokens]
        return sorted(near, key=lambda source: (-self._credits[source], source))

    def has_weight(self, source: int) -> bool:
        """Whether the source takes part at all."""
        return self._weights[source] > 0

    def spend(self, source: int, tokens: int) -> None:
        """Note that a row holds `tokens` of `source`."""
        for other in self._weighted():
            self._credits[other] += tokens * self._weights[other]
        self._credits[source] -= tokens

    def _weighted(self) -> list[int]:
        return [source for source, weight in enumerate(self._weights) if weight > 0]

    def state_dict(self) -> dict[str, list[float]]:
        """Plain JSON."""
        return {"weights": list(self._weights), "credits": list(self._credits)}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue exactly where `state` was taken."""
        self._weights = tuple(state["weights"])
        self._credits = list(state["credits"])
