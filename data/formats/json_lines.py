"""JSON lines: every line is an object; one of its fields is the text.

JSON is parsed as by Python: NaN and Infinity are numbers, and the last of equal names is used.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from data.formats import records
from data.formats.records import (
    BadRecord,
    Block,
    Fields,
    Format,
    Piece,
    Position,
    Record,
    document,
    document_of_parts,
    gather,
    in_order,
    too_long,
)
from data.formats.streams import LineStream, Opener
from data.printable import one_line

NAMED_FIELDS = 8


def blocks(path: str, start: Position, opener: Opener) -> Iterator[Block]:
    """Blocks of lines."""
    return gather(path, start, opener, _lines)


def _lines(path: str, stream: LineStream, start: Position) -> Iterator[Piece]:
    offset, number = start
    while line := stream.readline(records.MAX_RECORD_BYTES + 1):
        length = len(line)
        content: bytes | BadRecord = line
        if length > records.MAX_RECORD_BYTES:
            length += _skip_line(stream, line)
            content = too_long(path, number)
        offset += length
        yield Piece(number, content, Position(offset, number + 1))
        number += 1


def _skip_line(stream: LineStream, line: bytes) -> int:
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(records.BLOCK_BYTES)
        skipped += len(line)
    return skipped


def parse(block: Block, fields: Fields, opener: Opener) -> Iterator[Record]:
    """The record of every line; blank lines are not records."""
    del opener
    return in_order(block, partial(_record, fields))


def _record(fields: Fields, block: Block, number: int, content: bytes) -> Record | None:
    path = block.path
    if not content.strip():
        return None
    try:
        value = json.loads(content.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        reason = f"broken UTF-8 at byte {error.start} of the record ({error.reason})"
        return BadRecord(path, number, "encoding", reason)
    except (ValueError, RecursionError) as error:
        return BadRecord(path, number, "json", f"bad JSON ({error})")
    if not isinstance(value, dict):
        kind = type(value).__name__
        return BadRecord(path, number, "field", f"the record is a JSON {kind}, not an object")
    try:
        if fields.segments:
            parts = _segments(value, fields.segments)
            return document_of_parts(parts, path, number, block.consumed)
        before = _text(value, fields.unlabelled) if fields.unlabelled else ""
        return document(_text(value, fields.text), path, number, block.consumed, before=before)
    except _NotThere as error:
        return BadRecord(path, number, "field", str(error))


def _text(record: dict[str, Any], name: str) -> str:
    text = _field(record, name)
    if not isinstance(text, str):
        raise _NotThere(f"field {name!r} is {_kind(text)}, not a string")
    return text


def _segments(record: dict[str, Any], name: str) -> list[tuple[str, bool]]:
    segments = _field(record, name)
    if not isinstance(segments, list):
        raise _NotThere(f"field {name!r} is {_kind(segments)}, not a list of segments")
    return [_segment(segment, f"{name}[{number}]") for number, segment in enumerate(segments)]


def _segment(segment: Any, name: str) -> tuple[str, bool]:
    if not isinstance(segment, dict):
        raise _NotThere(f"{name} is {_kind(segment)}, not an object with text and label")
    text, label = segment.get("text"), segment.get("label")
    if not isinstance(text, str):
        raise _NotThere(f"{name}.text is {_kind(text)}, not a string")
    if not isinstance(label, bool):
        raise _NotThere(f"{name}.label is {_kind(label)}, not true or false")
    return text, label


class _NotThere(Exception):
    """A record lacks a field, or it has another type; the reason is the message."""


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _field(record: dict[str, Any], name: str) -> Any:
    """The value at `name`. A field that is spelled `name`, dots included, has priority; otherwise dots select fields of
    nested objects.

    Raises:
        _NotThere: there is none.
    """
    if name in record:
        return record[name]
    value: Any = record
    steps = name.split(".")
    for number, step in enumerate(steps):
        if not isinstance(value, dict) or step not in value:
            raise _NotThere(_missing(value, name, ".".join(steps[:number])))
        value = value[step]
    return value


def _missing(value: Any, name: str, inside: str) -> str:
    where = f"{inside!r} has " if inside else ""
    if not isinstance(value, dict):
        return f"no field {name!r} ({inside!r} is {_kind(value)}, not an object)"
    fields = one_line(", ".join(sorted(value)[:NAMED_FIELDS]) or "none")
    return f"no field {name!r} ({where}fields: {fields})"


FORMAT = Format(blocks, parse)
# For suffixes whose files version 1 read as one document.
NEWLY_READ = Format(blocks, parse, changed="every line is a record")
