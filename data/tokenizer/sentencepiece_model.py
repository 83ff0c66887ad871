"""Text to token ids and back, exactly; the only import of sentencepiece.

Byte-pair encoding with byte fallback and no normalisation, so that decode(encode(text)) == text for
every text that UTF-8 can express. SentencePiece represents a space as U+2581, so it would decode a
U+2581 of the text to a space. We therefore split the text at U+2581 and encode U+2581 as its three
byte tokens.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from data.files import write_durably
from data.interrupt import in_thread
from data.tokenizer.settings import adds_bos

META_SYMBOL = "\u2581"
EOS_ID = 1
CHUNK_CHARACTERS = 16_384
# SentencePiece silently ignores longer sentences.
MOST_SENTENCE_BYTES = 32_000
DEFAULT_SAMPLE_BYTES = 8_000_000
# 256 bytes, unknown, end of document, and some letters.
MINIMUM_VOCABULARY = 320


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """uint16 where every id fits (Megatron's rule: vocabularies below 65,500), else int32."""
    return np.dtype(np.uint16) if vocab_size < 65_500 else np.dtype(np.int32)


class Tokenizer:
    """A SentencePiece model file. `eos_id` ends documents; no text produces it.

    Raises ValueError when the file is missing, is not a model, or does not encode every text without
    loss (no byte fallback, a normaliser, a dummy prefix).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"tokenizer={path}: no such file; train one with"
                f" `ropewalk tokenizer --input PATH --output {path} --vocab-size 4096`"
            )
        proto = self.path.read_bytes()
        self.sha256 = hashlib.sha256(proto).hexdigest()
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(proto)
        except RuntimeError as error:
            raise ValueError(f"tokenizer={path}: not a SentencePiece model ({error})") from None
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        begin = self._processor.bos_id()
        self.bos_id: int | None = begin if begin >= 0 else None
        self.adds_bos = bool(adds_bos(self.path))
        self.dtype = token_dtype(self.vocab_size)
        if self.eos_id < 0:
            raise ValueError(f"tokenizer={path}: has no end-of-document token; train one that has")
        spelled = [self._processor.piece_to_id(f"<0x{b:02X}>") for b in META_SYMBOL.encode()]
        self._meta_ids = np.array(spelled, dtype=self.dtype)
        self._joined = self._neighbours()
        probe = f"  a{META_SYMBOL}\n\t \u00c5\ufb01\U0001f600 "
        if self.decode(self.encode(probe)) != probe:
            raise ValueError(
                f"tokenizer={path}: does not give every text back unchanged (it needs byte"
                " fallback, the identity normaliser, no dummy prefix); train one with"
                " `ropewalk tokenizer`"
            )

    def encode(self, text: str) -> np.ndarray:
        """Token ids of the whole text, without an end token, in the smallest dtype that fits.

        Memory is bounded by a small multiple of the text: long text is encoded in chunks, cut between two
        characters that are adjacent in no piece of the vocabulary, so the ids are those of the whole text.
        """
        parts: list[np.ndarray] = []
        for number, stretch in enumerate(text.split(META_SYMBOL)):
            if number:
                parts.append(self._meta_ids)
            for chunk in _chunks(stretch, self._joined):
                parts.append(np.array(self._processor.encode(chunk), dtype=self.dtype))
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; ignores end tokens, replaces incomplete characters by U+FFFD."""
        return str(self._processor.decode([int(i) for i in ids if int(i) != self.eos_id]))

    def piece(self, token: int) -> str:
        """The piece of one token in the vocabulary (a space as U+2581, a byte as <0xNN>)."""
        return str(self._processor.id_to_piece(token))

    def score(self, token: int) -> float:
        """The model's score of one token; encoding first merges the pair whose merged piece has the highest."""
        return float(self._processor.get_score(token))

    def is_text(self, token: int) -> bool:
        """Whether the token is plain text: not a byte, control, unknown or unused token."""
        processor = self._processor
        return not (
            processor.is_byte(token)
            or processor.is_control(token)
            or processor.is_unknown(token)
            or processor.is_unused(token)
        )

    def is_unknown(self, token: int) -> bool:
        """Whether the token is the unknown token; with byte fallback no text produces it."""
        return bool(self._processor.is_unknown(token))

    def _neighbours(self) -> frozenset[str]:
        """All pairs of characters that are adjacent in a piece."""
        pieces = (self.piece(token) for token in range(self.vocab_size) if self.is_text(token))
        spelled = (piece.replace(META_SYMBOL, " ") for piece in pieces)
        return frozenset(piece[i : i + 2] for piece in spelled for i in range(len(piece) - 1))


def _chunks(text: str, joined: frozenset[str]) -> Iterator[str]:
    start = 0
    while len(text) - start > CHUNK_CHARACTERS:
        end = start + CHUNK_CHARACTERS
        # No merge joins two characters that are adjacent in no piece, so the text can be cut between them.
        while end < len(text) and text[end - 1 : end + 1] in joined:
            end += 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def train(sentences: Iterable[str], output: str | Path, vocab_size: int) -> Tokenizer:
    """Train a model of exactly `vocab_size` pieces and write it to `output` (whole or not at all).

    The same sentences yield the same file, byte for byte. Raises ValueError if the text is too short
    for the vocabulary.
    """
    if vocab_size < MINIMUM_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size}: needs at least {MINIMUM_VOCABULARY} (256 of them are bytes)"
        )
    model = io.BytesIO()

    def learn() -> None:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=MOST_SENTENCE_BYTES,
            unk_id=0,
            eos_id=EOS_ID,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,  # recorded in the file, and of no use to byte-pair encoding
            minloglevel=2,
        )

    try:
        in_thread(learn)
    except RuntimeError as error:
        raise ValueError(f"vocab_size={vocab_size}: {_why_not(str(error))}") from None
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, model.getvalue())
    return Tokenizer(path)


def _why_not(error: str) -> str:
    """Translates an error message of SentencePiece's training for users."""
    most = re.search(r"value <= (\d+)", error)
    if most is not None:
        return f"the text gives at most {most[1]} tokens; use at most that, or more text"
    if "sentences_.empty()" in error:
        return "the text is blank; give documents with words"
    reason = error.splitlines()[-1][-200:]
    return f"could not be trained on this text ({reason}); give more text or a smaller vocabulary"
