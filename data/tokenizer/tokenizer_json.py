"""A Hugging Face tokenizer.json for data preparation; the only import of tokenizers.

Documents are plain text: the name of a special token in them is encoded like any other word. `encode` adds no special
tokens; data.prepare adds the end token, and the BOS token if the tokenizer itself would.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from data.tokenizer.sentencepiece_model import token_dtype
from data.tokenizer.settings import (
    MODEL_CONFIG,
    TOKENIZER_CONFIG,
    adds_bos,
    read_beside,
    token_name,
)

PROBES = "\u0416\u4e2d\ua840\U00010400"


class JsonTokenizer:
    """The tokenizer of a tokenizer.json; a file beside it names the end token.

    Raises:
        ValueError: a file is missing or invalid, no file names an end token of this vocabulary, characters would be
            lost, or the package tokenizers is not installed.
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
            Tokenizer as Backend,  # not needed for SentencePiece models
        )

        content = self.path.read_bytes()
        try:
            self._backend = Backend.from_buffer(content)
        except Exception as error:  # the package raises plain Exception
            raise ValueError(f"tokenizer={path}: not a tokenizer.json ({error})") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True
        ids = self._backend.get_vocab(with_added_tokens=True).values()
        if not ids:
            raise ValueError(f"tokenizer={path}: has no token; give one that was trained")
        self.vocab_size: int = max(ids) + 1
        self.dtype = token_dtype(self.vocab_size)
        self.eos_id = self._end_token()
        self.bos_id, self.adds_bos = self._begin_token()
        # The same file with another end token produces other token files.
        self.sha256 = hashlib.sha256(content + b"%d" % self.eos_id).hexdigest()
        self._refuse_vanishing()

    def encode(self, text: str) -> np.ndarray:
        """Token ids of the whole text, without an end token, in the smallest dtype that fits."""
        return np.array(self._ids(text), dtype=self.dtype)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`, without end tokens."""
        kept = [int(token) for token in ids if int(token) != self.eos_id]
        return str(self._backend.decode(kept, skip_special_tokens=False))

    def piece(self, token: int) -> str:
        """The piece of one token in the vocabulary."""
        return str(self._backend.id_to_token(token))

    def _end_token(self) -> int:
        named = token_name(self.path, "eos_token")
        if named is not None:
            token = self._backend.token_to_id(named)
            if token is None:
                raise ValueError(
                    f"tokenizer={self.path}: {TOKENIZER_CONFIG} beside it has eos_token={named!r}, which is none of"
                    " its tokens; put the files of one tokenizer together"
                )
            return self._checked_end(token, TOKENIZER_CONFIG)
        found = read_beside(self.path, MODEL_CONFIG).get("eos_token_id")
        found = found[0] if isinstance(found, list) and found else found
        if found is None:
            raise ValueError(
                f"tokenizer={self.path}: no file names the token that ends documents; put the"
                f" {TOKENIZER_CONFIG} of its model beside it, with eos_token"
            )
        return self._checked_end(found, MODEL_CONFIG)

    def _checked_end(self, token: object, file: str) -> int:
        """Returns `token`; raises ValueError unless it is an id of this tokenizer that no text yields."""
        if not self._is_id(token):
            raise ValueError(
                f"tokenizer={self.path}: {file} beside it has eos_token_id={json.dumps(token)}, which is none of"
                f" its {self.vocab_size} tokens; put the files of one tokenizer together"
            )
        assert isinstance(token, int)
        text = self._backend.decode([token], skip_special_tokens=False)
        if token in self._ids(text):
            raise ValueError(
                f"tokenizer={self.path}: the end token {token} of {file} is what the text {text!r} gives;"
                " name a special token as eos_token"
            )
        return token

    def _is_id(self, token: object) -> bool:
        if not isinstance(token, int) or isinstance(token, bool):
            return False
        return 0 <= token < self.vocab_size and self._backend.id_to_token(token) is not None

    def _begin_token(self) -> tuple[int | None, bool]:
        """The BOS token, or None, and whether the tokenizer itself begins texts with it."""
        leading = self._leading()
        said = adds_bos(self.path)
        adds = bool(leading) if said is None else said
        if adds and len(leading) > 1:
            raise ValueError(
                f"tokenizer={self.path}: begins a text with {len(leading)} tokens, {leading}; no single one is a BOS"
            )
        named = token_name(self.path, "bos_token")
        token = None if named is None else self._backend.token_to_id(named)
        model_says = read_beside(self.path, MODEL_CONFIG).get("bos_token_id")
        for found in (*leading[:1], token, model_says):
            if found is not None and self._is_id(found):
                return int(found), adds
        return None, adds

    def _leading(self) -> list[int]:
        """The ids that the post-processor adds before a text."""
        plain = self._ids("a")
        whole = list(self._backend.encode("a", add_special_tokens=True).ids)
        starts = range(len(whole) - len(plain) + 1)
        return whole[: next((n for n in starts if whole[n : n + len(plain)] == plain), 0)]

    def _refuse_vanishing(self) -> None:
        """Raises ValueError if a letter of four scripts yields no token, since it would be lost silently."""
        lost = [letter for letter in PROBES if not self._ids(letter)]
        if lost:
            raise ValueError(
                f"tokenizer={self.path}: gives no token for {', '.join(map(ascii, lost))}: characters outside its"
                " vocabulary would vanish; use one with byte fallback, byte-level pieces or an unknown token"
            )

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)
