"""Finds inputs that cannot be read before the first one is read: checks every file, opens only some.

A text file without compression is opened only if it is small enough for a git-lfs pointer; the first bytes of all other
files are compared with the format of their name. Records are not checked here: a bad record is reported when it is
read.
"""

import errno
import os
import stat
from collections import Counter

from data.formats import delimited
from data.formats.field_options import FieldOptions
from data.formats.input_files import BINARY_SUFFIXES, Inputs
from data.formats.readers import COMPRESSIONS, OTHER, Reader, reader_of
from data.formats.records import BadRecord, Fields, unreadable
from data.formats.streams import PLAIN, STREAM_ERRORS, ZSTANDARD, open_regular
from data.printable import Mistakes, one_line

HEAD_BYTES = 512
# A git-lfs pointer has about 130 bytes.
POINTER_BYTES = 1024
POINTER = b"version https://git-lfs.github.com/spec/"
# First bytes of files that are not text, whatever their name.
MAGICS = {
    # `.zst` is written last and replaces `.zstd`.
    **{
        opener.magic: f"compressed with {opener.name}; let its name end in {suffix}"
        for suffix, opener in reversed(COMPRESSIONS.items())
    },
    b"PAR1": "Parquet, which is not read; write its texts as .jsonl",
    b"ARROW1": "Arrow, which is not read; write its texts as .jsonl",
    b"\x93NUMPY": "a NumPy array, no text",
    b"PK\x03\x04": "a zip archive, which is not read; unpack it",
}
# Bytes 1 to 3 of zstandard frames without data; the first byte is 0x50 to 0x5f.
SKIPPABLE = b"\x2a\x4d\x18"
OF_BINARY = {
    ".bin": "is binary by its name: token files of another tool are described with"
    " `ropewalk manifest PREFIX --create` and need no data.prepare; let the name of a text end in .txt",
    ".npy": "is a NumPy array by its name, no text; write the texts that it was made of as .jsonl",
}
OF_BINARY[".idx"] = OF_BINARY[".bin"]
OF_BINARY[".npz"] = OF_BINARY[".npy"]
ANY_BINARY = "is no text by its name; let the name of a text end in .txt"


def obstacles(inputs: Inputs, fields: Fields) -> dict[str, BadRecord]:
    """A bad record for each file that cannot be read, by path."""
    found: dict[str, BadRecord] = {}
    for path, stamp in zip(inputs.files, inputs.stamps, strict=True):
        refused = inputs.refused.get(path, "")
        if refused:
            found[path] = BadRecord(path, 1, "format", refused)
        elif (bad := obstacle(path, stamp.size, fields)) is not None:
            found[path] = bad
    return found


def obstacle(path: str, size: int, fields: Fields) -> BadRecord | None:
    """A bad record if a file cannot be read; None if its first bytes fit its name.

    size: of the file; 0 if it is missing.
    """
    try:
        reason = _misnamed(path) or _misfit(path, size, fields)
    except STREAM_ERRORS as error:
        return unreadable(path, 1, error)
    return BadRecord(path, 1, "format", reason) if reason else None


def _misnamed(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    if suffix in BINARY_SUFFIXES:
        return OF_BINARY.get(suffix, ANY_BINARY)
    return reader_of(path).refused


def _misfit(path: str, size: int, fields: Fields) -> str:
    """Why the first bytes of a file do not fit its name; "" if they do.

    Raises:
        OSError, EOFError, ...: STREAM_ERRORS, where the file cannot be read.
    """
    reader = reader_of(path)
    if not reader.format.has_fields and reader.opener is PLAIN and size > POINTER_BYTES:
        _refuse_closed(path)
        return ""
    with open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    return _of_head(head, path, reader, fields)


def _refuse_closed(path: str) -> None:
    """Raises the OSError that opening the file would raise, without opening it."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise OSError(errno.EINVAL, "not a regular file")
    if not os.access(path, os.R_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))


def _of_head(head: bytes, path: str, reader: Reader, fields: Fields) -> str:
    if head.startswith(POINTER):
        return "is a git-lfs pointer, the data itself is not here; run `git lfs pull`"
    opener = reader.opener
    if opener is PLAIN:
        magic = next((m for m in MAGICS if head.startswith(m)), None)
        # Text may begin with the letters of a magic number; compressed bytes after them are not UTF-8.
        if magic is not None and (not magic.isalnum() or b"\0" in head or not _is_text(head)):
            return f"is {MAGICS[magic]}"
    elif not head:
        raise EOFError("empty, as no compressed file is")
    elif not _is_compressed(head, reader):
        return f"is not compressed with {opener.name}, as its name says (begins with {head[:8]!r})"
    delimiter = delimited.DELIMITERS.get(reader.format)
    if delimiter is not None:
        return delimited.header_problem(delimiter, path, fields, opener)
    return ""


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # an incomplete character at the end
    return True


def _is_compressed(head: bytes, reader: Reader) -> bool:
    if head.startswith(reader.opener.magic):
        return True
    return reader.opener is ZSTANDARD and head[1:4] == SKIPPABLE and 0x50 <= head[0] <= 0x5F


def formats_of(inputs: Inputs) -> dict[str, int]:
    """The number of files of every format, by suffix."""
    names = (path for path in inputs.files if path not in inputs.refused)
    return dict(sorted(Counter(reader_of(path).suffix for path in names).items()))


def look_at(inputs: Inputs, given: FieldOptions, on_error: str) -> dict[str, BadRecord]:
    """Bad records for the inputs that a command leaves out.

    on_error: "fail" or "skip".

    Raises:
        Mistakes: an input cannot be read, and on_error is "fail"; or a field was given, and no input has fields.
    """
    if given.named and not any(
        reader_of(path).format.has_fields for path in inputs.files if path not in inputs.refused
    ):
        formats = ", ".join(formats_of(inputs)).replace(OTHER, "other text") or "none"
        raise Mistakes(
            *(
                f"{option}={name}: no input has fields (their formats: {formats}); omit it, or give records"
                " as .jsonl, .json, .csv or .tsv"
                for option, name in given.named.items()
            )
        )
    found = obstacles(inputs, given.fields)
    if found and on_error == "fail":
        lines = [f"{one_line(path)}: {bad.reason}" for path, bad in found.items()]
        raise Mistakes(*lines, way_out="go on without such inputs: --on-error skip")
    return found
