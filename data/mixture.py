"""Which source the next document comes from, and which document it is.

Tokens drawn per source track the weights: every source earns its weight of each token drawn and
pays for its own, and the source most ahead in what it has earned is drawn next.

    draw n tokens from s:   credit[i] += n * weight[i] for all i,   credit[s] -= n

Credits stay within about one document's length, so the shares are exact up to that, and a change
of weights between stages only changes what is earned from then on: nothing is caught up.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from data.batch import Span
from data.documents import shuffled

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


class Mixture:
    """Draws whole documents from weighted sources; state is one counter and one credit a source."""

    def __init__(self, sources: Sequence[LengthSource], seed: int) -> None:
        self._orders = [
            DocumentOrder(documents, source=number, seed=seed)
            for number, documents in enumerate(sources)
        ]
        self._credits = [0.0] * len(sources)

    def next(self, weights: Sequence[float]) -> Span:
        """The next document under `weights` (positive sum, one a source)."""
        total = sum(weights)
        candidates = [i for i, weight in enumerate(weights) if weight > 0]
        # The first of a tie, so that every process chooses alike.
        chosen = max(candidates, key=lambda i: (self._credits[i], -i))
        span = self._orders[chosen].next()
        for i in candidates:
            self._credits[i] += span.length * (weights[i] / total)
        self._credits[chosen] -= span.length
        return span

    def state_dict(self) -> dict[str, list[float] | list[int]]:
        """Plain JSON."""
        return {
            "drawn": [order.drawn for order in self._orders],
            "credits": list(self._credits),
        }

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue exactly where `state` was taken."""
        for order, drawn in zip(self._orders, state["drawn"], strict=True):
            order.drawn = int(drawn)
        self._credits = [float(credit) for credit in state["credits"]]
