"""The table of formats: chooses the reader of a file by its name alone, and reads the records of many files.

A name ends in a suffix of FORMATS, which one of COMPRESSIONS may follow. A new format needs a file and a row.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from data.formats import delimited, json_lines, json_values, text
from data.formats.input_files import size_of
from data.formats.records import (
    START,
    BadRecord,
    Block,
    Document,
    Fields,
    Format,
    Position,
    Record,
)
from data.formats.streams import BZIP2, GZIP, PLAIN, XZ, ZSTANDARD, Opener

# A file with a suffix that is neither here nor in UNREADABLE is text of which every byte is kept.
FORMATS = {
    ".jsonl": json_lines.FORMAT,
    ".ndjson": json_lines.NEWLY_READ,
    ".json": json_values.FORMAT,
    ".csv": delimited.CSV,
    ".tsv": delimited.TSV,
    **dict.fromkeys(
        (".txt", ".text", ".md", ".markdown", ".rst", ".html", ".htm", ".xml"), text.PROSE
    ),
}
COMPRESSIONS = {".gz": GZIP, ".zst": ZSTANDARD, ".zstd": ZSTANDARD, ".xz": XZ, ".bz2": BZIP2}
# Containers of documents without a reader, and their descriptions: bad records, never passed over.
UNREADABLE = {
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Arrow",
    ".avro": "Avro",
    ".orc": "ORC",
    ".warc": "a web archive",
    ".wet": "a web archive",
    ".wat": "a web archive",
    ".tar": "a tar archive",
    ".tgz": "a tar archive",
    ".zip": "a zip archive",
    ".7z": "a 7z archive",
    ".rar": "a rar archive",
    ".lz4": "compressed with lz4",
    ".xlsx": "a spreadsheet",
    ".docx": "a word processor's document",
}
OTHER = "other"
# Formats that are read as by version 1.
UNCHANGED = frozenset({".jsonl", ".jsonl.gz", ".jsonl.zst", OTHER})


class Reader(NamedTuple):
    """Reads a file. suffix: its key in FORMATS (or OTHER) and the compression; refused: why it cannot be read."""

    suffix: str
    format: Format
    opener: Opener = PLAIN
    refused: str = ""

    def blocks(self, path: str, start: Position) -> Iterator[Block]:
        """The blocks of a file from a position on."""
        if not self.refused:
            return self.format.blocks(path, start, self.opener)
        bad = BadRecord(path, 1, "format", self.refused)
        return refusal(bad) if start == START else iter(())

    def parse(self, block: Block, fields: Fields) -> Iterator[Record]:
        """The records of a block, in order."""
        if block.bad and not block.lines:
            return iter(block.bad)
        return self.format.parse(block, fields, self.opener)


def refusal(bad: BadRecord) -> Iterator[Block]:
    """One block with a bad record, in place of the content of its file."""
    size = size_of(bad.path)
    yield Block(bad.path, (), (bad,), Position(size, 2), size)


def reader_of(path: str) -> Reader:
    """The reader of a file, by its name alone."""
    name = os.path.basename(path).lower()  # noqa: PTH119 (called per file: a Path is 10x slower)
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    opener = COMPRESSIONS.get(suffix, PLAIN)
    packed = ""
    if opener is not PLAIN:
        packed = suffix
        suffix = os.path.splitext(stem)[1]  # noqa: PTH122
    if suffix in UNREADABLE:
        return Reader(suffix + packed, text.VERBATIM, opener, why_unreadable(suffix))
    if suffix in FORMATS:
        return Reader(suffix + packed, FORMATS[suffix], opener)
    return Reader(OTHER + packed, text.VERBATIM, opener)


def changed_since_first(suffix: str) -> str:
    """The difference in reading files of this suffix since version 1; "" if there is none."""
    reader = reader_of(f"x{suffix}" if suffix.startswith(".") else f"x{suffix.removeprefix(OTHER)}")
    if reader.refused or reader.suffix in UNCHANGED:
        return ""
    return reader.format.changed if reader.opener is PLAIN else "was refused"


def why_unreadable(suffix: str) -> str:
    """Message about a container without a reader, with the way out."""
    return f"is {UNREADABLE[suffix]}, which is not read; write its texts as .jsonl (--help lists what is read)"


def read_blocks(
    files: Sequence[str],
    refused: Mapping[str, BadRecord],
    first: int = 0,
    start: Position = START,
) -> Iterator[tuple[Block, int]]:
    """Every block of every file, with the number of its file.

    refused: bad records of files that are not read, by path. first, start: number of the file, and position in it,
    to begin at.
    """
    for number in range(first, len(files)):
        path = files[number]
        at = start if number == first else START
        if path in refused:
            blocks = refusal(refused[path]) if at == START else iter(())
        else:
            blocks = reader_of(path).blocks(path, at)
        for block in blocks:
            yield block, number


def read_documents(
    files: Sequence[str], *, fields: Fields, refused: Mapping[str, BadRecord] | None = None
) -> Iterator[Record]:
    """Every record of every file, in order; `consumed` counts over all files."""
    before, last = 0, 0
    for block, number in read_blocks(files, refused or {}):
        before += sum(size_of(path) for path in files[last:number])
        last = number
        for record in reader_of(block.path).parse(block, fields):
            if isinstance(record, Document):
                yield replace(record, consumed=before + record.consumed)
            else:
                yield record
