"""Text of prompts to ids: by the run's tokenizer, or by a closed vocabulary for runs without one."""

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

_WORDS_FILE = Path(__file__).parent / "closed_words.txt"
_PIECE = re.compile(r"[A-Za-z]+|[^A-Za-z ]")
_CHARACTERS = ("\n", *(chr(code) for code in range(33, 127)))
# Ids of the characters, the least that a closed vocabulary has.
FEWEST_IDS = len(_CHARACTERS)
# Texts whose ids are kept: lines repeat in a prompt, in other prompts, and in the trials of its number of items.
_KEPT = 1 << 15


class Encoder(Protocol):
    """Interface: text to int64 ids, all below `vocab_size`. identity: of everything that determines the ids."""

    vocab_size: int
    identity: str

    def encode(self, text: str) -> np.ndarray: ...


class Remembering:
    """The ids of a tokenizer, where those of recent texts are kept."""

    def __init__(self, encode: Callable[[str], np.ndarray], vocab_size: int, identity: str) -> None:
        self.vocab_size, self.identity = vocab_size, identity
        self._encode = lru_cache(_KEPT)(lambda text: np.asarray(encode(text), dtype=np.int64))

    def encode(self, text: str) -> np.ndarray:
        """See `Encoder`. No text has no ids."""
        return self._encode(text) if text else np.empty(0, dtype=np.int64)


class ClosedVocabulary:
    """One id for each printable ASCII character and each word of closed_words.txt; spaces have none.

    A word of the list is one id, every other word is spelled. `ids` maps a number of the vocabulary to an id of the
    run, which lets an end token lie among them; with fewer ids the last words are spelled.
    """

    def __init__(self, ids: np.ndarray | None = None) -> None:
        pieces = (*_CHARACTERS, *closed_words())
        self._ids = np.arange(len(pieces)) if ids is None else ids
        self._numbers = dict(zip(pieces, range(len(self._ids)), strict=False))
        self.vocab_size = int(self._ids.max()) + 1
        self.identity = hashlib.sha256("\n".join(self._numbers).encode()).hexdigest()

    def encode(self, text: str) -> np.ndarray:
        """See `Encoder`.

        Raises:
            ValueError: the text has a character that is not printable ASCII.
        """
        numbers: list[int] = []
        for piece in _PIECE.findall(text):
            if piece in self._numbers:
                numbers.append(self._numbers[piece])
            elif piece.isascii() and piece.isalpha():
                numbers += [self._numbers[letter] for letter in piece]
            else:
                raise ValueError(
                    f"{piece!r}: is not in the closed vocabulary, which has ASCII only"
                )
        return np.asarray(self._ids[np.array(numbers, dtype=np.int64)])


@lru_cache(1)
def closed_words() -> tuple[str, ...]:
    """Returns the words of the closed vocabulary, in order of their ids."""
    return tuple(_WORDS_FILE.read_text(encoding="ascii").split())


def closed_size() -> int:
    """Returns the number of ids of the closed vocabulary."""
    return len(_CHARACTERS) + len(closed_words())
