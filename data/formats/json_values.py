"""A .json file: an array of objects, one object after another, or JSON lines; its content decides.

    first byte `[`                        array: its elements are the records
    first line a whole object             JSON lines (json_lines.py)
    first byte `{` otherwise              objects, each over any number of lines

Objects are cut out of the stream by counting brackets outside strings, so that memory is bounded by one record
however large the array is. They are decoded later, as lines are: an object that is not JSON is one bad record and
does not affect others. A position inside an array is that of the comma or bracket after a record.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from functools import partial

from data.formats import json_lines, records
from data.formats.records import (
    START,
    BadRecord,
    Block,
    Format,
    Piece,
    Position,
    gather,
    too_long,
)
from data.formats.streams import (
    READ_BYTES,
    STREAM_ERRORS,
    LineStream,
    Opener,
    open_at,
    open_regular,
)

_BLANK = b" \t\r\n"
# A whole string, or one byte of the structure outside strings.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["\[\]{},]', re.DOTALL)
_INSIDE_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


def _blocks(path: str, start: Position, opener: Opener) -> Iterator[Block]:
    try:
        cut = _cutter(path, opener)
    except STREAM_ERRORS:
        cut = None  # json_lines meets the error again and reports it
    if cut is None:
        return json_lines.blocks(path, start, opener)
    return gather(path, start, opener, cut)


def _cutter(
    path: str, opener: Opener
) -> Callable[[str, LineStream, Position], Iterator[Piece]] | None:
    """The function that cuts the file into records; None for JSON lines."""
    with open_regular(path) as file:
        head = open_at(file, opener, 0).read(records.BLOCK_BYTES)
    head = head.removeprefix(codecs.BOM_UTF8).lstrip(_BLANK)
    if head.startswith(b"["):
        return partial(_objects, True)
    first, _, rest = head.partition(b"\n")
    if not head.startswith(b"{") or _is_object(first) or _is_broken_line(first, rest):
        return None
    return partial(_objects, False)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_broken_line(first: bytes, rest: bytes) -> bool:
    """Whether the first line is a damaged object of a file in JSON lines (the second line starts like one)."""
    if first.rstrip().endswith((b"{", b"[")):  # an object over many lines
        return False
    return rest.lstrip(_BLANK).startswith(b'{"')


class _Brackets:
    """Finds the end of a record, chunk by chunk. level: depth of brackets around records, 1 in an array."""

    def __init__(self, level: int) -> None:
        self._level = level
        self.depth = level
        self._in_string = False
        self._escaped = False

    def find(self, chunk: bytes, at: int) -> int:
        """Index after the end of the current record, searched from `at`; -1 if it does not end in this chunk."""
        if self._in_string:
            at = self._leave_string(chunk, at)
        while (match := _STRUCTURE.search(chunk, at)) is not None:
            at = match.end()
            found = match[0]
            if found in b"[{":
                self.depth += 1
            elif found in b"]}":
                self.depth -= 1
                if not self._level and self.depth <= 0:
                    self.depth = 0
                    return at
                if self._level and not self.depth:
                    return at - 1
            elif found == b",":
                if self._level and self.depth == self._level:
                    return at - 1
            elif found == b'"':  # the string continues in the next chunk
                self._in_string = True
                at = self._leave_string(chunk, at)
        return -1

    def _leave_string(self, chunk: bytes, at: int) -> int:
        at += self._escaped
        self._escaped = False
        match = _INSIDE_STRING.match(chunk, at)
        assert match is not None
        at = match.end()
        if at >= len(chunk):
            return at
        if chunk[at : at + 1] == b'"':
            self._in_string = False
            return at + 1
        self._escaped = True  # the chunk ends after a backslash
        return len(chunk)


class _Growing:
    """Collects the bytes of one record, chunk by chunk; beyond MAX_RECORD_BYTES it only counts them."""

    def __init__(self, offset: int, line: int) -> None:
        self._parts: list[bytes] = []
        self._blank_lines = 0
        self._size = 0
        self.offset = offset
        self.line = line

    def add(self, part: bytes) -> None:
        self.offset += len(part)
        self.line += part.count(b"\n")
        if not self._size:
            stripped = part.lstrip(_BLANK)
            self._blank_lines += part[: len(part) - len(stripped)].count(b"\n")
            part = stripped
        self._size += len(part)
        if self._size > records.MAX_RECORD_BYTES:
            self._parts.clear()
        else:
            self._parts.append(part)

    @property
    def is_blank(self) -> bool:
        return not self._size

    def piece(self, path: str, first_line: int) -> Piece:
        """The record; it starts on `first_line`, or after blank lines."""
        line = first_line + self._blank_lines
        long = self._size > records.MAX_RECORD_BYTES
        content = too_long(path, line) if long else b"".join(self._parts)
        return Piece(line, content, Position(self.offset, self.line))


def _objects(in_array: bool, path: str, stream: LineStream, start: Position) -> Iterator[Piece]:
    """Records from `start` on, and a bad record for anything else in the file."""
    offset, line = start
    chunk, at = b"", 0
    if start == START:
        chunk, at, line = _opened(stream, in_array)
        offset = at
        may_end = True
    elif in_array:  # the comma or bracket after the last record
        chunk, at = stream.read(READ_BYTES), 1
        offset += 1
        may_end = chunk.startswith(b"]")
        if may_end:
            yield from _behind(path, stream, chunk[1:], line)
            return
    brackets = _Brackets(int(in_array))
    growing = _Growing(offset, line)
    first_line = line
    while True:
        end = brackets.find(chunk, at)
        growing.add(chunk[at:] if end < 0 else chunk[at:end])
        if end < 0:
            chunk, at = stream.read(READ_BYTES), 0
            if not chunk:
                break
            continue
        closed = in_array and not brackets.depth
        if growing.is_blank and not (closed and may_end):
            reason = "bad JSON (nothing between two commas of the array)"
            yield Piece(
                growing.line,
                BadRecord(path, growing.line, "json", reason),
                growing.piece(path, 1).end,
            )
        elif not growing.is_blank:
            yield growing.piece(path, first_line)
        may_end = False
        at = end + int(in_array)
        if closed:
            yield from _behind(path, stream, chunk[at:], growing.line)
            return
        first_line = growing.line
        growing = _Growing(growing.offset + int(in_array), growing.line)
    last = growing.piece(path, first_line)
    if in_array:
        bad = BadRecord(path, last.line, "truncated", "the file ends inside its array")
        yield Piece(last.line, bad, last.end)
    elif not growing.is_blank:
        yield last


def _opened(stream: LineStream, in_array: bool) -> tuple[bytes, int, int]:
    """The first chunk, the index where its records begin, and the line of that index."""
    chunk = stream.read(max(READ_BYTES, records.BLOCK_BYTES))  # at least what `_cutter` read
    at = len(codecs.BOM_UTF8) if chunk.startswith(codecs.BOM_UTF8) else 0
    if in_array:
        at = chunk.index(b"[") + 1
    return chunk, at, 1 + chunk.count(b"\n", 0, at)


def _behind(path: str, stream: LineStream, chunk: bytes, line: int) -> Iterator[Piece]:
    """A bad record if anything follows the end of the array."""
    while chunk or (chunk := stream.read(READ_BYTES)):
        stripped = chunk.lstrip(_BLANK)
        line += chunk[: len(chunk) - len(stripped)].count(b"\n")
        if stripped:
            bad = BadRecord(path, line, "json", "bad JSON (something follows the end of the array)")
            yield Piece(line, bad, records.DAMAGED)
            return
        chunk = b""


FORMAT = Format(_blocks, json_lines.parse, changed="its records are read")
