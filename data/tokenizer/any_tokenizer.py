"""What data preparation asks of a tokenizer, whichever file it came in."""

from pathlib import Path
from typing import Protocol

import numpy as np

from data.tokenizer.sentencepiece_model import Tokenizer
from data.tokenizer.tokenizer_json import JsonTokenizer


class TextTokenizer(Protocol):
    """Text to ids. eos_id: ends documents; sha256: of what decides the ids."""

    path: Path
    sha256: str
    vocab_size: int
    eos_id: int
    dtype: np.dtype[np.generic]

    def encode(self, text: str) -> np.ndarray:
        """Ids of the whole text, without an end token; no text gives the end token."""


def open_tokenizer(path: str | Path) -> TextTokenizer:
    """A tokenizer.json of Hugging Face, or else a SentencePiece model.

    Raises:
        ValueError: the file is missing, is no tokenizer, or cannot be used here.
    """
    return JsonTokenizer(path) if Path(path).suffix == ".json" else Tokenizer(path)
