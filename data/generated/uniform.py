"""Independent tokens, uniform over the ids; every target counts. The loss of a perfect model is ln(ids).

For measurements of speed without files, and as the control of a mix: nothing can be learned but the ids.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.generated.documents import GeneratedDocuments, below, draws_at, key

_SYMBOLS = 0x5359_4D42


@dataclass(kw_only=True)
class Uniform(GeneratedDocuments):
    """Independent tokens, uniform over the ids."""

    task: Literal["uniform"]


@dataclass(frozen=True)
class UniformDocument:
    """One document; sequence: the key of its draws, one a symbol."""

    length: int
    ids: int
    sequence: int

    def symbols(self, start: int, stop: int) -> np.ndarray:
        """Returns the symbols [start, stop)."""
        return below(draws_at(self.sequence, np.arange(start, stop)), self.ids)

    def labelled(self, start: int, stop: int) -> None:
        """Returns None: every target counts."""

    def count_labelled(self, start: int, stop: int) -> None:
        """Returns None: every target counts."""


class UniformTask:
    """The documents of the settings, by number."""

    def __init__(self, settings: Uniform, num_special: int) -> None:
        self._settings, self._num_special = settings, num_special

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the symbols of the documents with these numbers."""
        return self._settings.room(numbers, self._num_special)

    def document(self, number: int) -> UniformDocument:
        """Returns the document of this number."""
        settings = self._settings
        length = settings.room_of_one(number, self._num_special)
        return UniformDocument(length, settings.ids, key(settings.seed, number, _SYMBOLS))
