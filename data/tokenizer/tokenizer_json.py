"""A Hugging Face tokenizer.json for data preparation; the only import of tokenizers.

Documents are text: a special token's name in them is spelled like any other word, nothing is added at their
ends but the end token, by whoever prepares them.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from data.tokenizer.sentencepiece_model import token_dtype


class JsonTokenizer:
    """The tokenizer of a tokenizer.json; which token ends documents stands in a file beside it.

    Raises ValueError when a file is missing or is none, when no end token is named, or when the package
    tokenizers is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"tokenizer={path}: no such file; give a tokenizer.json or a .model")
        if find_spec("tokenizers") is None:
            raise ValueError(
                f"tokenizer={path}: the package tokenizers is not installed, which reads such files;"
                " install it, or give a SentencePiece model"
            )
        from tokenizers import (
            Tokenizer as Backend,  # where there is none, SentencePiece still works
        )

        content = self.path.read_bytes()
        try:
            self._backend = Backend.from_buffer(content)
        except Exception as error:  # what the package raises has no type of its own
            raise ValueError(f"tokenizer={path}: not a tokenizer.json ({error})") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        self.eos_id = self._end_token()
        # The same file with another end token gives other documents.
        self.sha256 = hashlib.sha256(content + b"%d" % self.eos_id).hexdigest()
        ids = self._backend.get_vocab(with_added_tokens=True).values()
        self.vocab_size: int = max(ids) + 1
        self.dtype = token_dtype(self.vocab_size)

    def encode(self, text: str) -> np.ndarray:
        """Token ids of the whole text, without an end token, in the smallest dtype that fits."""
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=self.dtype)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; end tokens say nothing."""
        kept = [int(token) for token in ids if int(token) != self.eos_id]
        return str(self._backend.decode(kept, skip_special_tokens=False))

    def piece(self, token: int) -> str:
        """How the vocabulary writes one token."""
        return str(self._backend.id_to_token(token))

    def _end_token(self) -> int:
        named = _beside(self.path, "tokenizer_config.json").get("eos_token")
        if isinstance(named, dict):
            named = named.get("content")
        if named is not None:
            token = self._backend.token_to_id(str(named))
            if token is not None:
                return int(token)
        found = _beside(self.path, "config.json").get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
        if not isinstance(found, int):
            raise ValueError(
                f"tokenizer={self.path}: which token ends documents is said nowhere; put the"
                " tokenizer_config.json of its model beside it, with eos_token"
            )
        return found


def _beside(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.with_name(name).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
