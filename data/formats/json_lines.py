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
    Format,
    Piece,
    Position,
    Record,
    document,
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


def parse(block: Block, text_field: str, opener: Opener) -> Iterator[Record]:
    """The record of every line; blank lines are not records."""
    del opener
    return in_order(block, partial(_record, text_field))


def _record(text_field: str, block: Block, number: int, content: bytes) -> Record | None:
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
    text, missing = _field(value, text_field)
    if missing:
        return BadRecord(path, number, "field", missing)
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        return BadRecord(path, number, "field", f"field {text_field!r} is {kind}, not a string")
    return document(text, path, number, block.consumed)


def _field(record: dict[str, Any], name: str) -> tuple[Any, str]:
    """The value at `name`, and "" or the reason why there is none. A field that is spelled `name`, dots included,
    has priority; otherwise dots select fields of nested objects."""
    if name in record:
        return record[name], ""
    value: Any = record
    steps = name.split(".")
    for number, step in enumerate(steps):
        if not isinstance(value, dict) or step not in value:
            return None, _missing(value, name, ".".join(steps[:number]))
        value = value[step]
    return value, ""


def _missing(value: Any, name: str, inside: str) -> str:
    where = f"{inside!r} has " if inside else ""
    if not isinstance(value, dict):
        kind = "null" if value is None else type(value).__name__
        return f"no field {name!r} ({inside!r} is {kind}, not an object)"
    fields = one_line(", ".join(sorted(value)[:NAMED_FIELDS]) or "none")
    return f"no field {name!r} ({where}fields: {fields})"


FORMAT = Format(blocks, parse)
# For suffixes whose files version 1 read as one document.
NEWLY_READ = Format(blocks, parse, changed="every line is a record")
