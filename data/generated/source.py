"""Documents of a task as a source for planner, loader and evaluation, beside token files.

[BOS] symbols of the task, as ids of the vocabulary   end token
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

import numpy as np

from data.generated.documents import Document, Task
from data.prompts.text import TextOfRun
from data.tokens.declared import Declared

CHUNK = 1 << 16
# Documents whose settings (or, if a task makes them whole, symbols) are kept.
_KEPT = 64


@dataclass(frozen=True)
class GeneratedSource(Declared):
    """Generated documents `first` to `first + num_documents` of a task, as a source of documents from 0 on.

    ids: the id of each symbol. text: what a source of text is made with, else None.
    """

    task: Task
    first: int
    num_documents: int
    ids: np.ndarray
    text: TextOfRun | None = None
    # A length in tokens that no document exceeds; None: not known.
    longest: int | None = None
    _document: Callable[[int], Document] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_document", lru_cache(_KEPT)(self.task.document))

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents; an estimate from CHUNK documents if there are more."""
        some = np.unique(np.linspace(0, self.num_documents - 1, CHUNK).astype(np.int64))
        return round(int(self.document_lengths(some).sum()) * self.num_documents / len(some))

    @property
    def num_labelled(self) -> int:
        """Tokens of all documents that have a label; an estimate."""
        return round(self.labelled_share * self.num_tokens)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """int64 lengths in tokens of `documents`."""
        return self.task.lengths(documents + self.first) + self._begin + 1

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) of a document; makes only these."""
        made = self._document(document + self.first)
        begin, stop = self._begin, start + length
        assert 0 <= start <= stop <= made.length + begin + 1, f"{start}, {length} of {document}"
        symbols = made.symbols(*self._inside(made, start, stop))
        before = [self.bos_id] if start < begin <= stop and length else []
        after = [self.eos_id] if start <= made.length + begin < stop else []
        return np.concatenate([before, self.ids[symbols], after]).astype(np.int64)

    def count_labels(self, document: int, start: int, length: int) -> int:
        """See `data/labels.py: LabelCounts`."""
        made = self._document(document + self.first)
        counted = made.count_labelled(*self._inside(made, start + 1, start + length))
        return length - 1 if counted is None else counted

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray | None:
        """See `data/labels.py: LabelMasks`."""
        made = self._document(document + self.first)
        first, last = self._inside(made, start, start + length)
        inside = made.labelled(first, last)
        if inside is None:
            return None
        mask = np.zeros(length, dtype=bool)
        at = first + self._begin - start
        mask[at : at + len(inside)] = inside
        return mask

    def lengths(self) -> Iterator[np.ndarray]:
        """Lengths of all documents in order, in arrays of bounded size."""
        for start in range(0, self.num_documents, CHUNK):
            yield self.document_lengths(np.arange(start, min(start + CHUNK, self.num_documents)))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of all documents end to end, in order."""
        pieces, at = [np.zeros(0, dtype=np.int64)], 0
        for document, length in enumerate(chain.from_iterable(self.lengths())):
            if at >= stop:
                break
            if start < at + length:
                first, last = max(0, start - at), min(int(length), stop - at)
                pieces.append(self.read(document, first, last - first))
            at += int(length)
        return np.concatenate(pieces)

    @property
    def _begin(self) -> int:
        """Number of tokens before the symbols."""
        return int(self.bos_id is not None)

    def _inside(self, made: Document, start: int, stop: int) -> tuple[int, int]:
        """The symbols among the tokens [start, stop), as a range that may be empty."""
        first = min(max(0, start - self._begin), made.length)
        return first, max(first, min(stop - self._begin, made.length))
