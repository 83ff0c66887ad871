"""Documents out of files: one small table from file suffix to reader.

A reader works in two halves so that many processes can share the work: `blocks` walks one file in
order with bounded memory and hands out blocks (a mebibyte of undecoded lines, or the name of a
text file), `parse` turns a block into records and can run anywhere. A record is a Document or a
BadRecord; nothing is dropped without one. A new format is a new row in FORMATS.

JSON is Python's: NaN and Infinity are numbers, and of a name that stands twice the last counts.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple

from data.formats.input_files import size_of
from data.formats.streams import (
    GZIP,
    PLAIN,
    STREAM_ERRORS,
    ZSTANDARD,
    LineStream,
    Opener,
    open_at,
    open_regular,
)
from data.printable import one_line

BLOCK_BYTES = 1 << 20
# A longer line or text file is a bad record: it would have to fit into memory several times.
MAX_RECORD_BYTES = 1 << 30

# Containers of documents that no reader opens yet: bad records, never passed over.
UNREADABLE_SUFFIXES = [
    ".7z",
    ".arrow",
    ".avro",
    ".bz2",
    ".gz",
    ".lz4",
    ".orc",
    ".parquet",
    ".rar",
    ".tar",
    ".tgz",
    ".xz",
    ".zip",
    ".zst",
    ".zstd",
]


@dataclass(frozen=True, slots=True)
class Document:
    """One text; `line` is where its record starts (1 for a text file), `consumed` the bytes of the
    input files read up to its end."""

    text: str
    path: str
    line: int
    consumed: int


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is no document.  kind: encoding, json, field, truncated, too_long, unreadable,
    format, or empty (which never stops a run: an empty text has no token to lose)."""

    path: str
    line: int
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{one_line(self.path)}:{self.line}: {self.reason}"


class Position(NamedTuple):
    """Where to take up a file again: uncompressed byte offset and the number of the next line."""

    offset: int
    line: int


START = Position(0, 1)
# The file cannot be read any further.
DAMAGED = Position(0, -1)


@dataclass(frozen=True, slots=True)
class Block:
    """Undecoded records of one file, in order.

    lines: (line number, bytes); bad: what the reader itself found; end: where the next block
    starts; consumed: bytes of the file (as stored) that were read so far.
    """

    path: str
    lines: tuple[tuple[int, bytes], ...]
    bad: tuple[BadRecord, ...]
    end: Position
    consumed: int


class Format(NamedTuple):
    """How one kind of file is read: `blocks(path, start)` in order, `parse(block, text_field)`."""

    blocks: Callable[[str, Position], Iterator[Block]]
    parse: Callable[[Block, str], Iterator[Document | BadRecord]]


def _json_blocks(opener: Opener) -> Callable[[str, Position], Iterator[Block]]:
    def blocks(path: str, start: Position) -> Iterator[Block]:
        at = start
        if start == DAMAGED:
            return
        try:
            with open_regular(path) as file:
                stream = open_at(file, opener, start.offset)
                ended = False
                while not ended:
                    block, ended = _read_block(path, stream, file, at)
                    at = block.end
                    if block.lines or block.bad:
                        yield block
        except STREAM_ERRORS as error:
            yield Block(path, (), (_unreadable(path, at.line, error),), DAMAGED, 0)

    return blocks


def _unreadable(path: str, line: int, error: Exception) -> BadRecord:
    why = getattr(error, "strerror", None) or str(error)
    return BadRecord(path, line, "unreadable", f"cannot be read ({why})")


def _read_block(
    path: str, stream: LineStream, file: IO[bytes], start: Position
) -> tuple[Block, bool]:
    """The next lines, and whether the file ends with them (at its end, or where it is damaged)."""
    number = start.line
    size = 0
    lines: list[tuple[int, bytes]] = []
    bad: list[BadRecord] = []
    ended = damaged = False
    while size < BLOCK_BYTES and not ended:
        try:
            line = stream.readline(MAX_RECORD_BYTES + 1)
            length = len(line)
            if length > MAX_RECORD_BYTES:
                length += _skip_line(stream, line)
                reason = f"the record is longer than {MAX_RECORD_BYTES} bytes"
                bad.append(BadRecord(path, number, "too_long", reason))
            elif line:
                lines.append((number, line))
            ended = not length
        except STREAM_ERRORS as error:
            reason = f"the file is cut off or damaged in this record ({error})"
            bad.append(BadRecord(path, number, "truncated", reason))
            ended = damaged = True
            break
        size += length
        number += 1
    end = DAMAGED if damaged else Position(start.offset + size, number)
    return Block(path, tuple(lines), tuple(bad), end, file.tell()), ended


def _skip_line(stream: LineStream, line: bytes) -> int:
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(BLOCK_BYTES)
        skipped += len(line)
    return skipped


def _parse_json(block: Block, text_field: str) -> Iterator[Document | BadRecord]:
    found: list[tuple[int, Document | BadRecord]] = [(bad.line, bad) for bad in block.bad]
    for number, line in block.lines:
        if line.strip():
            found.append((number, _json_record(block, number, line, text_field)))
    return iter([record for _, record in sorted(found, key=lambda item: item[0])])


def _json_record(block: Block, number: int, line: bytes, text_field: str) -> Document | BadRecord:
    path = block.path
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        reason = f"broken UTF-8 at byte {error.start} of the line ({error.reason})"
        return BadRecord(path, number, "encoding", reason)
    except (ValueError, RecursionError) as error:
        return BadRecord(path, number, "json", f"bad JSON ({error})")
    if not isinstance(value, dict):
        kind = type(value).__name__
        return BadRecord(path, number, "field", f"the record is a JSON {kind}, not an object")
    if text_field not in value:
        names = one_line(", ".join(sorted(value)[:8]) or "none")
        return BadRecord(path, number, "field", f"no field {text_field!r} (fields: {names})")
    text = value[text_field]
    if not isinstance(text, str):
        kind = type(text).__name__
        return BadRecord(path, number, "field", f"field {text_field!r} is {kind}, not a string")
    return _checked(text, path, number, block.consumed)


def _checked(text: str, path: str, number: int, consumed: int) -> Document | BadRecord:
    if not text:
        return BadRecord(path, number, "empty", "the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"lone surrogate at character {error.start}, no UTF-8 can express it"
        return BadRecord(path, number, "encoding", reason)
    return Document(text, path, number, consumed)


def _text_blocks(path: str, start: Position) -> Iterator[Block]:
    if start == START:
        size = size_of(path)
        yield Block(path, (), (), Position(size, 2), size)


def _parse_text(block: Block, text_field: str) -> Iterator[Document | BadRecord]:
    del text_field
    size = size_of(block.path)
    if size > MAX_RECORD_BYTES:
        reason = f"the file has {size} bytes, more than {MAX_RECORD_BYTES}; cut it into records"
        yield BadRecord(block.path, 1, "too_long", reason)
        return
    try:
        with open_regular(block.path) as file:
            content = file.read(MAX_RECORD_BYTES)
    except OSError as error:
        yield _unreadable(block.path, 1, error)
        return
    try:
        yield _checked(content.decode(), block.path, 1, block.consumed)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"broken UTF-8 at byte {error.start} of the file ({error.reason})"
        yield BadRecord(block.path, line, "encoding", reason)


def _parse_unreadable(block: Block, text_field: str) -> Iterator[Document | BadRecord]:
    del text_field
    known = ", ".join(FORMATS)
    yield BadRecord(block.path, 1, "format", f"no reader for this format (text, {known})")


TEXT = Format(_text_blocks, _parse_text)
UNREADABLE = Format(_text_blocks, _parse_unreadable)
# Suffix -> reader. Every other suffix is a text file: one document.
FORMATS = {
    ".jsonl": Format(_json_blocks(PLAIN), _parse_json),
    ".jsonl.gz": Format(_json_blocks(GZIP), _parse_json),
    ".jsonl.zst": Format(_json_blocks(ZSTANDARD), _parse_json),
}


def format_of(path: str) -> Format:
    """The reader of a file, by its name alone."""
    name = os.path.basename(path).lower()  # noqa: PTH119 (called per file: a Path is 10x slower)
    for suffix, reader in FORMATS.items():
        if name.endswith(suffix):
            return reader
    return UNREADABLE if name.endswith(tuple(UNREADABLE_SUFFIXES)) else TEXT


def read_documents(files: Sequence[str], *, text_field: str) -> Iterator[Document | BadRecord]:
    """Every record of every file, in order; `consumed` counts over all files."""
    before = 0
    for path in files:
        reader = format_of(path)
        for block in reader.blocks(path, START):
            for record in reader.parse(block, text_field):
                if isinstance(record, Document):
                    yield Document(record.text, path, record.line, before + record.consumed)
                else:
                    yield record
        before += size_of(path)
