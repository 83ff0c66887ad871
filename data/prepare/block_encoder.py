"""Blocks of records to blocks of tokens: the work that workers share."""

from dataclasses import dataclass

import numpy as np

from data.formats.readers import reader_of
from data.formats.records import BadRecord, Block, Document
from data.tokenizer.any_tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """Documents of a block: tokens end to end (each with its end token), their lengths, and the records that are no
    documents; both in order. text_bytes: of all texts, in UTF-8."""

    tokens: np.ndarray
    sizes: np.ndarray
    bad: tuple[BadRecord, ...]
    text_bytes: int


def encode_block(
    block: Block, tokenizer: TextTokenizer, text_field: str, bos_id: int | None = None
) -> EncodedBlock:
    """Parse and tokenise one block; each document begins with `bos_id` where there is one."""
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
