"""Text to token ids and back, exactly; the only import of sentencepiece.

Byte-pair encoding with byte fallback and no normalisation, so that decode(encode(text)) == text for
every text that UTF-8 can express. One trap: SentencePiece writes a space as U+2581 inside, so a
real U+2581 in the text would come back as a space. Here it never reaches SentencePiece: text is
split at U+2581, which is spelled by its three byte tokens instead.
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
# A longer sentence would be left out by SentencePiece without a word.
MOST_SENTENCE_BYTES = 32_000
DEFAULT_SAMPLE_BYTES = 8_000_000
# 256 bytes, unknown, end of document, and some letters.
MINIMUM_VOCABULARY = 320


def token_dtype(vocab_size: int) -> np.dtype[np.generic]:
    """uint16 where every id fits (Megatron's rule: vocabularies below 65,500), else int32."""
    return np.dtype(np.uint16) if vocab_size < 65_500 else np.dtype(np.int32)


class Tokenizer:
    """A SentencePiece model file; ids end documents with `eos_id`, which no text ever produces.

    Raises ValueError when the file is missing, is no model, or cannot spell every text (no byte
    fallback, a normaliser, a dummy prefix).
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

        Memory stays a small multiple of the text: long text is encoded in pieces, cut between two
        characters that no piece of the vocabulary has side by side, so the ids are those of the whole.
        """
        parts: list[np.ndarray] = []
        for number, stretch in enumerate(text.split(META_SYMBOL)):
            if number:
                parts.append(self._meta_ids)
            for chunk in _chunks(stretch, self._joined):
                parts.append(np.array(self._processor.encode(chunk), dtype=self.dtype))
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; end tokens say nothing, cut characters become U+FFFD."""
        return str(self._processor.decode([int(i) for i in ids if int(i) != self.eos_id]))

    def piece(self, token: int) -> str:
        """How the vocabulary writes one token (a space as U+2581, a byte as <0xNN>)."""
        return str(self._processor.id_to_piece(token))

    def score(self, token: int) -> float:
        """The model's score of one token: of two pairs it merges the one whose whole has the higher."""
        return float(self._processor.get_score(token))

    def is_text(self, token: int) -> bool:
        """Whether the token spells itself: no byte, no control token, not the unknown."""
        processor = self._processor
        return not (
            processor.is_byte(token)
            or processor.is_control(token)
            or processor.is_unknown(token)
            or processor.is_unused(token)
        )

    def is_unknown(self, token: int) -> bool:
        """Whether the token stands for what has no other; with byte fallback no text gives it."""
        return bool(self._processor.is_unknown(token))

    def _neighbours(self) -> frozenset[str]:
        """Every two characters that stand side by side in a piece."""
        pieces = (self.piece(token) for token in range(self.vocab_size) if self.is_text(token))
        spelled = (piece.replace(META_SYMBOL, " ") for piece in pieces)
        return frozenset(piece[i : i + 2] for piece in spelled for i in range(len(piece) - 1))


def _chunks(text: str, joined: frozenset[str]) -> Iterator[str]:
    start = 0
    while len(text) - start > CHUNK_CHARACTERS:
        end = start + CHUNK_CHARACTERS
        # No merge ever crosses two characters that no piece joins: what is left and right of them is apart.
        while end < len(text) and text[end - 1 : end + 1] in joined:
            end += 1
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def train(sentences: Iterable[str], output: str | Path, vocab_size: int) -> Tokenizer:
    """Train a model of exactly `vocab_size` pieces and write it to `output` (whole or not at all).

    The same sentences give the same file, byte for byte. ValueError when the text is too little
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
    """SentencePiece's reason against a training, for somebody who does not know its sources."""
    most = re.search(r"value <= (\d+)", error)
    if most is not None:
        return f"the text gives at most {most[1]} tokens; use at most that, or more text"
    if "sentences_.empty()" in error:
        return "the text is blank; give documents with words"
    reason = error.splitlines()[-1][-200:]
    return f"could not be trained on this text ({reason}); give more text or a smaller vocabulary"
