"""Encodes blocks of records as blocks of tokens: the work of the worker processes."""

from dataclasses import dataclass

import numpy as np

from data.formats.readers import reader_of
from data.formats.records import BadRecord, Block, Document
from data.tokenizer.any_tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """The encoded documents of a block. tokens: of all documents, end to end, each with its end token; sizes: tokens
    of each document; bad: bad records, in order; text_bytes: bytes of all texts in UTF-8."""

    tokens: np.ndarray
    sizes: np.ndarray
    bad: tuple[BadRecord, ...]
    text_bytes: int


def encode_block(
    block: Block, tokenizer: TextTokenizer, text_field: str, bos_id: int | None = None
) -> EncodedBlock:
    """Parse and tokenise one block; each document begins with `bos_id` unless it is None."""
    begin = np.array([] if bos_id is None else [bos_id], dtype=tokenizer.dtype)
    end = np.array([tokenizer.eos_id], dtype=tokenizer.dtype)
    parts: list[np.ndarray] = [np.empty(0, dtype=tokenizer.dtype)]
    sizes: list[int] = []
    bad: list[BadRecord] = []
    text_bytes = 0
    for record in reader_of(block.path).parse(block, text_field):
        if isinstance(record, Document):
            text_bytes += len(record.text.encode())
            tokens = tokenizer.encode(record.text)
            parts += [begin, tokens, end]
            sizes.append(len(begin) + len(tokens) + 1)
        else:
            bad.append(record)
    return EncodedBlock(
        np.concatenate(parts), np.array(sizes, dtype=np.int32), tuple(bad), text_bytes
    )
