"""Types of the readers: blocks of undecoded records, documents and bad records.

A format has two functions, so that many processes can share the work. `blocks` reads one file in order with bounded
memory and cuts it into blocks of about 1 MiB of undecoded records. `parse` converts a block to records and can
run in any process. A record is a Document or a BadRecord; whatever is dropped has a BadRecord.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data.formats.streams import STREAM_ERRORS, LineStream, Opener, open_at, open_regular
from data.printable import one_line

BLOCK_BYTES = 1 << 20
# A longer record or text file is a bad record: parsing needs several times its size in memory.
MAX_RECORD_BYTES = 1 << 30


class Fields(NamedTuple):
    """The fields or columns of a record that hold a document; "" for none.

    text: its text. unlabelled: a text before that one, whose tokens have no labels. segments: in place of both, a list
    of objects with `text` and `label` (whether its tokens have labels).
    """

    text: str = "text"
    unlabelled: str = ""
    segments: str = ""

    @property
    def say_labels(self) -> bool:
        """Whether records say which tokens have labels."""
        return bool(self.unlabelled or self.segments)


class Part(NamedTuple):
    """A part of a text: the number of its characters, and whether its tokens have labels."""

    characters: int
    has_labels: bool


@dataclass(frozen=True, slots=True)
class Document:
    """One text. line: first line of its record (1 for a text file); consumed: bytes of the input files
    read up to its end; parts: of the text, end to end, none of them empty."""

    text: str
    path: str
    line: int
    consumed: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is not a document. kind: encoding, json, csv, field, truncated, too_long, unreadable,
    format, or empty (which never ends a command: no token is lost)."""

    path: str
    line: int
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{one_line(self.path)}:{self.line}: {self.reason}"


class Position(NamedTuple):
    """Position to continue a file from: uncompressed byte offset and the number of the next line."""

    offset: int
    line: int


START = Position(0, 1)
# The rest of the file cannot be read.
DAMAGED = Position(0, -1)


@dataclass(frozen=True, slots=True)
class Block:
    """Undecoded records of one file, in order.

    lines: (line number, bytes) of each record; bad: bad records that the reader found; end: start of the next
    block; consumed: bytes of the file (as stored) read so far; head: bytes that every record is parsed with, such
    as the header of a CSV file.
    """

    path: str
    lines: tuple[tuple[int, bytes], ...]
    bad: tuple[BadRecord, ...]
    end: Position
    consumed: int
    head: bytes = b""


Record = Document | BadRecord


class Format(NamedTuple):
    """The functions that read one kind of file.

    blocks(path, start, opener): the file's blocks from `start` on. parse(block, fields, opener): its records.
    has_fields: whether `fields` are used. changed: the difference since version 1.
    """

    blocks: Callable[[str, Position, Opener], Iterator[Block]]
    parse: Callable[[Block, Fields, Opener], Iterator[Record]]
    has_fields: bool = True
    changed: str = ""


class Piece(NamedTuple):
    """One undecoded record or a bad record, its first line, and the position after it."""

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
    """Blocks of the records that `cut` finds in a file; a damaged file ends with a bad record."""
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
    """A block of the next pieces, and whether it is the last (at the end of the file, or before damage)."""
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
    """The records of a block, merged in order with its bad records. `record` returns None for a line without one."""
    found: list[tuple[int, Record]] = [(bad.line, bad) for bad in block.bad]
    for number, content in block.lines:
        value = record(block, number, content)
        if value is not None:
            found.append((number, value))
    return iter([value for _, value in sorted(found, key=lambda item: item[0])])


def unreadable(path: str, line: int, error: Exception) -> BadRecord:
    """The bad record of a file that cannot be opened or read."""
    why = getattr(error, "strerror", None) or str(error)
    return BadRecord(path, line, "unreadable", f"cannot be read ({why})")


def too_long(path: str, line: int) -> BadRecord:
    """The bad record of a record longer than MAX_RECORD_BYTES."""
    reason = f"the record is longer than {MAX_RECORD_BYTES} bytes"
    return BadRecord(path, line, "too_long", reason)


def document(text: str, path: str, line: int, consumed: int, *, before: str = "") -> Record:
    """The document of a text, all of whose tokens have labels, after the text `before` without labels.

    A bad record if `text` is empty, or if one of them cannot be encoded in UTF-8.
    """
    if not text:
        return _empty(path, line)
    return document_of_parts([(before, False), (text, True)], path, line, consumed)


def document_of_parts(
    texts: Sequence[tuple[str, bool]], path: str, line: int, consumed: int
) -> Record:
    """The document of texts end to end, each with the bool whether its tokens have labels.

    A bad record if all of them are empty, or if one cannot be encoded in UTF-8.
    """
    text = "".join(part for part, _ in texts)
    if not text:
        return _empty(path, line)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"lone surrogate at character {error.start}, no UTF-8 can express it"
        return BadRecord(path, line, "encoding", reason)
    parts = tuple(Part(len(part), has_labels) for part, has_labels in texts if part)
    return Document(text, path, line, consumed, parts)


def _empty(path: str, line: int) -> BadRecord:
    return BadRecord(path, line, "empty", "the text is empty")
