"""Encodes blocks of records as blocks of tokens: the work of the worker processes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.formats.readers import reader_of
from data.formats.records import BadRecord, Block, Document, Fields
from data.tokenizer.any_tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """The encoded documents of a block.

    tokens: of all documents, end to end, each with its end token; sizes: int32, tokens of each document; bad: bad
    records, in order; text_bytes: bytes of all texts in UTF-8. runs: int32 (R, 2), first token in its document and
    number of tokens of every run of tokens with a label; run_counts: int32, runs of each document. Both are empty where
    the records do not say which tokens have labels.
    """

    tokens: np.ndarray
    sizes: np.ndarray
    bad: tuple[BadRecord, ...]
    text_bytes: int
    run_counts: np.ndarray
    runs: np.ndarray


def encode_block(
    block: Block, tokenizer: TextTokenizer, fields: Fields, bos_id: int | None = None
) -> EncodedBlock:
    """Parse and tokenise one block; each document begins with `bos_id` unless it is None.

    Where tokens may lack labels, the parts of a text are tokenised apart, so that no token is half in one part. The
    BOS token goes with the first part, the end token with the last one.
    """
    begin = np.array([] if bos_id is None else [bos_id], dtype=tokenizer.dtype)
    end = np.array([tokenizer.eos_id], dtype=tokenizer.dtype)
    pieces: list[np.ndarray] = [np.empty(0, dtype=tokenizer.dtype)]
    sizes: list[int] = []
    bad: list[BadRecord] = []
    run_counts: list[int] = []
    runs: list[tuple[int, int]] = []
    text_bytes = 0
    for record in reader_of(block.path).parse(block, fields):
        if not isinstance(record, Document):
            bad.append(record)
            continue
        text_bytes += len(record.text.encode())
        parts = _parts(record) if fields.say_labels else [(record.text, True)]
        encoded = [tokenizer.encode(text) for text, _ in parts]
        pieces += [begin, *encoded, end]
        sizes.append(len(begin) + sum(map(len, encoded)) + 1)
        if fields.say_labels:
            labels = [has_labels for _, has_labels in parts]
            lengths = [len(begin), *map(len, encoded), 1]
            found = _runs(zip(lengths, [labels[0], *labels, labels[-1]], strict=True))
            run_counts.append(len(found))
            runs += found
    return EncodedBlock(
        np.concatenate(pieces),
        np.array(sizes, dtype=np.int32),
        tuple(bad),
        text_bytes,
        np.array(run_counts, dtype=np.int32),
        np.array(runs, dtype=np.int32).reshape(-1, 2),
    )


def _parts(document: Document) -> list[tuple[str, bool]]:
    found, at = [], 0
    for characters, has_labels in document.parts:
        found.append((document.text[at : at + characters], has_labels))
        at += characters
    return found


def _runs(parts: Iterable[tuple[int, bool]]) -> list[tuple[int, int]]:
    """(first token, number of tokens) of the runs of tokens with labels, from the number of tokens of each part."""
    found: list[tuple[int, int]] = []
    at = 0
    for length, has_labels in parts:
        if has_labels and length:
            if found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((at, length))
        at += length
    return found
