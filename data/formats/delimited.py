"""CSV and TSV: a header of column names, then records; one column is the text.

Quoting follows RFC 4180, with tabs as with commas: a field in double quotes may contain delimiters, line ends and
doubled quotes. The parser that cuts the bytes into records is the one that reads them later. It cuts in Latin-1, where
every byte is a character and no byte of a UTF-8 sequence looks like a delimiter, a quote or a line end.
"""

import codecs
import csv
import io
from collections.abc import Iterable, Iterator
from functools import partial

from data.formats import records
from data.formats.records import (
    DAMAGED,
    START,
    BadRecord,
    Block,
    Fields,
    Format,
    Piece,
    Position,
    Record,
    document,
    gather,
    in_order,
    too_long,
)
from data.formats.streams import STREAM_ERRORS, LineStream, Opener, open_at, open_regular
from data.printable import one_line

NAMED_COLUMNS = 8


class _TooLong(Exception):
    """A record is longer than MAX_RECORD_BYTES."""


class _Lines:
    """Lines of a stream for the parser; keeps the lines that the parser has taken."""

    def __init__(self, stream: LineStream, *, mark: bool = False) -> None:
        self._stream = stream
        self._mark = mark  # whether a byte-order mark may come first
        self.taken: list[bytes] = []
        self.size = 0
        self.line_ends = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._stream.readline(records.MAX_RECORD_BYTES + 1):
            self.taken.append(line)
            self.size += len(line)
            self.line_ends += line.endswith(b"\n")
            if self.size > records.MAX_RECORD_BYTES:
                raise _TooLong
            yield (line.removeprefix(codecs.BOM_UTF8) if self._mark else line).decode("latin-1")
            self._mark = False

    def give(self) -> bytes:
        """Returns the bytes taken since the last call."""
        content = b"".join(self.taken)
        self.taken.clear()
        self.size = self.line_ends = 0
        return content

    def skip_line(self) -> None:
        """Skip the rest of a line that is too long."""
        while not self.taken[-1].endswith(b"\n"):
            part = self._stream.readline(records.BLOCK_BYTES)
            if not part:
                return
            self.size += len(part)
            self.line_ends += part.endswith(b"\n")
            self.taken = [part]


def _rows(delimiter: str, lines: Iterable[str]) -> Iterator[list[str]]:
    csv.field_size_limit(2 * records.MAX_RECORD_BYTES)  # the lines themselves are limited
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _rows_of(delimiter: str, content: str) -> Iterator[list[str]]:
    return _rows(delimiter, io.StringIO(content, newline="\n"))


def _blocks(delimiter: str, path: str, start: Position, opener: Opener) -> Iterator[Block]:
    if start == DAMAGED:
        return
    try:
        head = _header(delimiter, path, opener)
    except STREAM_ERRORS:
        head = b""  # `gather` meets the error again and reports it
    if start == START:
        start = Position(len(head), 1 + head.count(b"\n"))
    yield from gather(path, start, opener, partial(_cut, delimiter), head)


def _header(delimiter: str, path: str, opener: Opener) -> bytes:
    """The bytes up to the end of the first record that is not blank."""
    with open_regular(path) as file:
        lines = _Lines(open_at(file, opener, 0), mark=True)
        try:
            next((row for row in _rows(delimiter, lines) if row), None)
        except (csv.Error, _TooLong):
            return b""
        return lines.give()


def _cut(delimiter: str, path: str, stream: LineStream, start: Position) -> Iterator[Piece]:
    offset, number = start
    lines = _Lines(stream, mark=start == START)
    rows = _rows(delimiter, lines)
    while True:
        bad: BadRecord | None = None
        try:
            if next(rows, None) is None:
                return
        except csv.Error:
            pass  # `_parse` reports it
        except _TooLong:
            lines.skip_line()
            bad = too_long(path, number)
            rows = _rows(delimiter, lines)
        offset += lines.size
        end = Position(offset, number + lines.line_ends)
        content = lines.give()
        yield Piece(number, content if bad is None else bad, end)
        number = end.line


def _parse(delimiter: str, block: Block, fields: Fields, opener: Opener) -> Iterator[Record]:
    del opener
    names, problem = _names(delimiter, block.head)
    problem = problem or column_problem(names, fields)
    return in_order(block, partial(_record, delimiter, names, fields, problem))


def _names(delimiter: str, head: bytes) -> tuple[list[str], str]:
    """The column names of a header, and the problem if it cannot be read, else ""."""
    try:
        rows = _rows_of(delimiter, head.decode("utf-8-sig"))
        return next((row for row in rows if row), []), ""
    except UnicodeDecodeError as error:
        return [], f"the header has broken UTF-8 at byte {error.start} ({error.reason})"
    except csv.Error as error:
        return [], f"the header cannot be read ({error})"


def column_problem(names: list[str], fields: Fields) -> str:
    """Why these columns do not hold documents: each of `fields` must be exactly one of them; "" if they do."""
    if fields.segments:
        return "a column holds no list of segments; give such records as .jsonl or .json"
    for wanted in filter(None, (fields.text, fields.unlabelled)):
        if names.count(wanted) > 1:
            return f"{names.count(wanted)} columns are called {wanted!r}"
        if wanted not in names:
            listed = one_line(", ".join(names[:NAMED_COLUMNS]) or "none")
            return f"no column {wanted!r} (columns: {listed})"
    return ""


def header_problem(delimiter: str, path: str, fields: Fields, opener: Opener) -> str:
    """Why the header of a file does not name the columns of documents; "" if it does, or if the file has no header.

    Raises:
        OSError, EOFError, ...: STREAM_ERRORS, where the file cannot be read.
    """
    head = _header(delimiter, path, opener)
    names, problem = _names(delimiter, head)
    return problem or (column_problem(names, fields) if head else "")


def _record(
    delimiter: str,
    names: list[str],
    fields: Fields,
    problem: str,
    block: Block,
    number: int,
    content: bytes,
) -> Record | None:
    path = block.path
    try:
        rows = list(_rows_of(delimiter, content.decode()))
    except UnicodeDecodeError as error:
        reason = f"broken UTF-8 at byte {error.start} of the record ({error.reason})"
        return BadRecord(path, number, "encoding", reason)
    except csv.Error as error:
        return BadRecord(path, number, "csv", f"bad CSV ({error})")
    if not any(rows):
        return None
    (row,) = rows
    if problem:
        return BadRecord(path, number, "field", problem)
    if len(row) != len(names):
        reason = (
            f"the record has {len(row)} fields, the header {len(names)}; put fields that hold the"
            " delimiter or a line end in double quotes"
        )
        return BadRecord(path, number, "csv", reason)
    text = row[names.index(fields.text)]
    before = row[names.index(fields.unlabelled)] if fields.unlabelled else ""
    return document(text, path, number, block.consumed, before=before)


def _format(delimiter: str) -> Format:
    return Format(
        partial(_blocks, delimiter), partial(_parse, delimiter), changed="every row is a record"
    )


CSV, TSV = _format(","), _format("\t")
DELIMITERS = {CSV: ",", TSV: "\t"}
