"""Filler between the lines of a prompt: noise, or documents of the run. A line fits between its pieces."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from data.packing.document_order import shuffled
from data.prompts.draws import Draws
from data.prompts.encoder import Encoder

NOISE = (
    "The grain ripens in the field and the wind moves it.\n",
    "The road goes over the hill and comes down to the lake.\n",
    "It rains in the morning and clears before noon.\n",
    "People walk to the market and carry home what they need.\n",
    "The lamps are lit at dusk and put out at dawn.\n",
)
# A line of more tokens is cut behind its last sentence that ends before, or there.
_MOST = 64
# Tokens of a document that are read at a time.
_READ = 1_024


class Filler(Protocol):
    """Interface: pieces of ids without end. The same draws give the same pieces."""

    def pieces(self, draws: Draws) -> Iterator[np.ndarray]: ...


class Noise:
    """The same few sentences, again and again (RULER's "repeat" haystack: arXiv 2404.06654, appendix B)."""

    def __init__(self, encoder: Encoder) -> None:
        self._sentences = [encoder.encode(sentence) for sentence in NOISE]

    def pieces(self, draws: Draws) -> Iterator[np.ndarray]:
        """See `Filler`; begins with a random sentence."""
        at = draws.below(len(self._sentences))
        while True:
            yield self._sentences[at % len(self._sentences)]
            at += 1


class Readable(Protocol):
    """Interface of documents: token ids by number."""

    @property
    def num_documents(self) -> int: ...

    def document_lengths(self, documents: np.ndarray) -> np.ndarray: ...

    def read(self, document: int, start: int, length: int) -> np.ndarray: ...


class Documents:
    """Held-out documents of a run, one after the other, in pieces that end with a line; without BOS and end token."""

    def __init__(self, source: Readable, encoder: Encoder, special: tuple[int, ...]) -> None:
        self._source, self._special = source, np.array(special, dtype=np.int64)
        self._line_ends = _last_ids(encoder, ("\n", "a\n", "a.\n", "a\n\n", ":\n"))
        self._sentence_ends = _last_ids(encoder, ("a.", "a!", "a?"))

    def pieces(self, draws: Draws) -> Iterator[np.ndarray]:
        """See `Filler`; begins at a random place of a random document."""
        number, total = draws.below(1 << 32), self._source.num_documents
        part = draws.part()
        while True:
            place = np.array([number % total])
            document = int(shuffled(place, total, seed=0, source=0, epoch=0)[0])
            length = int(self._source.document_lengths(place * 0 + document)[0])
            yield from self._of(document, int(part * length), length)
            number, part = number + 1, 0.0

    def _of(self, document: int, first: int, length: int) -> Iterator[np.ndarray]:
        for start in range(first, length, _READ):
            ids = self._source.read(document, start, min(_READ, length - start)).astype(np.int64)
            ids = ids[~np.isin(ids, self._special)]
            cuts = np.flatnonzero(np.isin(ids, self._line_ends)) + 1
            for line in np.split(ids, cuts):
                yield from self._sentences(line)

    def _sentences(self, line: np.ndarray) -> Iterator[np.ndarray]:
        while len(line) > _MOST:
            ends = np.flatnonzero(np.isin(line[:_MOST], self._sentence_ends))
            stop = int(ends[-1]) + 1 if len(ends) else _MOST
            yield line[:stop]
            line = line[stop:]
        if len(line):
            yield line


def _last_ids(encoder: Encoder, texts: Iterable[str]) -> np.ndarray:
    """Returns the ids that these texts end with; some tokenizers have none for a line end alone."""
    found = {int(ids[-1]) for ids in map(encoder.encode, texts) if len(ids)}
    return np.array(sorted(found), dtype=np.int64)
