"""Text files: the whole file is one document."""

from collections.abc import Iterator
from functools import partial
from typing import IO

from data.formats import records
from data.formats.input_files import size_of
from data.formats.records import (
    START,
    BadRecord,
    Block,
    Fields,
    Format,
    Position,
    Record,
    document,
    unreadable,
)
from data.formats.streams import PLAIN, STREAM_ERRORS, Opener, open_at, open_regular


def _blocks(path: str, start: Position, opener: Opener) -> Iterator[Block]:
    del opener
    if start == START:
        size = size_of(path)
        yield Block(path, (), (), Position(size, 2), size)


def _parse(encoding: str, block: Block, fields: Fields, opener: Opener) -> Iterator[Record]:
    del fields
    path = block.path
    try:
        with open_regular(path) as file:
            content = _content(file, opener)
    except OSError as error:
        yield unreadable(path, 1, error)
        return
    except STREAM_ERRORS as error:
        yield BadRecord(path, 1, "truncated", f"the file is cut off or damaged ({error})")
        return
    if len(content) > records.MAX_RECORD_BYTES:
        reason = f"the text has more than {records.MAX_RECORD_BYTES} bytes; cut it into records"
        yield BadRecord(path, 1, "too_long", reason)
        return
    try:
        yield document(content.decode(encoding), path, 1, block.consumed)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        reason = f"broken UTF-8 at byte {error.start} of the file ({error.reason})"
        yield BadRecord(path, line, "encoding", reason)


def _content(file: IO[bytes], opener: Opener) -> bytes:
    """The file's bytes, at most MAX_RECORD_BYTES + 1."""
    most = records.MAX_RECORD_BYTES + 1
    if opener is PLAIN:
        return file.read(most)
    stream = open_at(file, opener, 0)
    parts: list[bytes] = []
    while most > 0 and (part := stream.read(min(most, records.BLOCK_BYTES))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


# Prose: a byte-order mark is removed.
PROSE = Format(
    _blocks,
    partial(_parse, "utf-8-sig"),
    has_fields=False,
    changed="a byte-order mark is removed",
)
# All other text, such as source code: every byte is kept.
VERBATIM = Format(_blocks, partial(_parse, "utf-8"), has_fields=False)
