"""The interface of tokenizers for data preparation, for all file formats."""

from pathlib import Path
from typing import Protocol

import numpy as np

from data.tokenizer.sentencepiece_model import Tokenizer
from data.tokenizer.tokenizer_json import JsonTokenizer


class TextTokenizer(Protocol):
    """Text to ids.

    eos_id: token that ends documents. bos_id: BOS token, None if there is none. adds_bos: whether the tokenizer's own
    files make it begin every text with BOS. sha256: of everything that determines the ids of a text.
    """

    path: Path
    sha256: str
    vocab_size: int
    eos_id: int
    bos_id: int | None
    adds_bos: bool
    dtype: np.dtype[np.generic]

    def encode(self, text: str) -> np.ndarray:
        """Ids of the whole text, without an end token; no text yields the id of the end token."""


def open_tokenizer(path: str | Path) -> TextTokenizer:
    """Opens a tokenizer.json of Hugging Face, or else a SentencePiece model.

    Raises:
        ValueError: the file is missing, is not a tokenizer, or cannot be used here.
    """
    return JsonTokenizer(path) if Path(path).suffix == ".json" else Tokenizer(path)


def bos_of_documents(tokenizer: TextTokenizer, wanted: str) -> int | None:
    """The BOS id that begins every document; None for none.

    wanted: "always", "never", or "auto": if the tokenizer's own files have add_bos_token.

    Raises:
        ValueError: a BOS token is required, but the tokenizer has none.
    """
    if wanted == "never" or (wanted == "auto" and not tokenizer.adds_bos):
        return None
    if tokenizer.bos_id is None:
        why = "its files say add_bos_token" if wanted == "auto" else "one was asked for"
        raise ValueError(
            f"bos={wanted}: {tokenizer.path} has no BOS token, and {why}; use never, or put the"
            " tokenizer_config.json of its model beside it, with bos_token"
        )
    return tokenizer.bos_id
