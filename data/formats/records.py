"""What readers hand out: blocks of undecoded records, and the documents and bad records that come of them.

A format works in two halves so that many processes can share the work. `blocks` walks one file in order with bounded
memory and cuts it into blocks of about a mebibyte of undecoded records. `parse` turns a block into records and can
run in any process. A record is a Document or a BadRecord; nothing is dropped without one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from data.formats.streams import STREAM_ERRORS, LineStream, Opener, open_at, open_regular
from data.printable import one_line

BLOCK_BYTES = 1 << 20
# A longer record or text file is a bad record: it would have to fit into memory several times.
MAX_RECORD_BYTES = 1 << 30


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
    """A record that is no document.  kind: encoding, json, csv, field, truncated, too_long, unreadable,
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

    lines: (line number, bytes) of each record; bad: what the reader itself found; end: where the next block
    starts; consumed: bytes of the file (as stored) that were read so far; head: what every record of the file is
    read with, as the header of a CSV file.
    """

    path: str
    lines: tuple[tuple[int, bytes], ...]
    bad: tuple[BadRecord, ...]
    end: Position
    consumed: int
    head: bytes = b""


Record = Document | BadRecord


class Format(NamedTuple):
    """How one kind of file is read.

    blocks(path, start, opener): the file's blocks from `start` on. parse(block, text_field, opener): its records.
    has_fields: whether the name of a text field means anything. changed: what is different since version 1.
    """

    blocks: Callable[[str, Position, Opener], Iterator[Block]]
    parse: Callable[[Block, str, Opener], Iterator[Record]]
    has_fields: bool = True
    changed: str = ""


class Piece(NamedTuple):
    """One undecoded record, or what is wrong with it; its first line; the position behind it."""

    line: int
    content: bytes | BadRecord
    end: Position


def gather(
    path: str,
    start: Position,
    opener: Opener,
    cut: Callable[[str, LineStream, Position], Iterator[Piece]],
    head: bytes = b"",
) -> Iterator[Block]:
    """Blocks of what `cut` finds in the stream of a file; a file that is damaged ends with a bad record."""
    if start == DAMAGED:
        return
    try:
        with open_regular(path) as file:
            pieces = cut(path, open_at(file, opener, start.offset), start)
            at = start
            while True:
                block, ended = _block(path, pieces, at, file.tell, head)
                at = block.end
                if block.lines or block.bad:
                    yield block
                if ended:
                    return
    except STREAM_ERRORS as error:
        yield Block(path, (), (unreadable(path, start.line, error),), DAMAGED, 0, head)


def _block(
    path: str, pieces: Iterator[Piece], start: Position, tell: Callable[[], int], head: bytes
) -> tuple[Block, bool]:
    """The next pieces, and whether the file ends with them (at its end, or where it is damaged)."""
    at = start
    lines: list[tuple[int, bytes]] = []
    bad: list[BadRecord] = []
    ended = False
    while at.offset - start.offset < BLOCK_BYTES:
        try:
            piece = next(pieces, None)
        except STREAM_ERRORS as error:
            reason = f"the file is cut off or damaged in this record ({error})"
            bad.append(BadRecord(path, at.line, "truncated", reason))
            at = DAMAGED
            piece = None
        if piece is None:
            ended = True
            break
        if isinstance(piece.content, BadRecord):
            bad.append(piece.content)
        else:
            lines.append((piece.line, piece.content))
        at = piece.end
    return Block(path, tuple(lines), tuple(bad), at, tell(), head), ended


def in_order(
    block: Block, record: Callable[[Block, int, bytes], Record | None]
) -> Iterator[Record]:
    """`record` of every line of a block, among the bad records that the reader found; None is no record at all."""
    found: list[tuple[int, Record]] = [(bad.line, bad) for bad in block.bad]
    for number, content in block.lines:
        value = record(block, number, content)
        if value is not None:
            found.append((number, value))
    return iter([value for _, value in sorted(found, key=lambda item: item[0])])


def unreadable(path: str, line: int, error: Exception) -> BadRecord:
    """The record of a file that the system does not let us read."""
    why = getattr(error, "strerror", None) or str(error)
    return BadRecord(path, line, "unreadable", f"cannot be read ({why})")


def too_long(path: str, line: int) -> BadRecord:
    """The record of a text that is longer than a record may be."""
    reason = f"the record is longer than {MAX_RECORD_BYTES} bytes"
    return BadRecord(path, line, "too_long", reason)


def document(text: str, path: str, line: int, consumed: int) -> Record:
    """The document of a text, unless it is empty or no UTF-8 can express it."""
    if not text:
        return BadRecord(path, line, "empty", "the text is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"lone surrogate at character {error.start}, no UTF-8 can express it"
        return BadRecord(path, line, "encoding", reason)
    return Document(text, path, line, consumed)
