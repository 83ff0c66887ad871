"""Token files in Megatron's MMapIndexedDataset format: PREFIX.bin (tokens) and PREFIX.idx (index).

    .idx   9 bytes  b"MMIDIDX\\x00\\x00"
           uint64   version, 1
           uint8    dtype code
           uint64   S, number of sequences
           uint64   D + 1, number of documents + 1
           int32    S sizes, in tokens
           int64    S pointers, byte offsets into .bin
           int64    D + 1 document indices: document d = sequences [index[d], index[d + 1])

All numbers are little-endian. Our own files have one sequence per document; files of Megatron's tools
with several are read as well. Opening maps the index and reads a few bytes of both files.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.tokens.prefix import bin_path, crc_path, idx_path
from data.tokens.token_file import DamagedData, TokenFile

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES: dict[int, np.dtype[np.generic]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
}
CHUNK = 1 << 20


class IndexedDataset:
    """Documents of tokens; the time to open them does not depend on their size.

    With `page_bytes`, tokens are checked against PREFIX.crc when they are read.
    Attributes: prefix, dtype, num_documents, num_sequences, num_tokens.
    Raises ValueError if a file is missing, has another format, or has the wrong length.
    """

    def __init__(self, prefix: str | Path, *, page_bytes: int | None = None) -> None:
        self.prefix = str(prefix)
        self._idx = idx_path(prefix)
        self._bin = bin_path(prefix)
        for path in (self._idx, self._bin):
            if not path.is_file():
                raise ValueError(
                    f"{path}: no such file; make it with `ropewalk prepare --input PATH"
                    f" --output {prefix} --tokenizer MODEL`"
                )
        code, self.num_sequences, num_indices = _read_header(self._idx)
        self.dtype = DTYPES[code]
        self.num_documents = num_indices - 1
        self._idx_bytes = HEADER.size + 12 * self.num_sequences + 8 * num_indices
        _check_size(self._idx, self._idx_bytes)
        self._idx_file = self._idx.open("rb", buffering=0)
        # As a plain array: indexing a memmap object is several times slower.
        index = np.asarray(np.memmap(self._idx_file, mode="r", dtype=np.uint8))
        at = HEADER.size
        self._sizes = index[at : at + 4 * self.num_sequences].view("<i4")
        at += 4 * self.num_sequences
        self._pointers = index[at : at + 8 * self.num_sequences].view("<i8")
        at += 8 * self.num_sequences
        self._documents = index[at:].view("<i8")
        end = self._check_ends()
        _check_size(self._bin, end)
        self.num_tokens = end // self.dtype.itemsize
        self._tokens = (
            TokenFile(self._bin, self.dtype, self.num_tokens)
            if page_bytes is None
            else TokenFile(
                self._bin,
                self.dtype,
                self.num_tokens,
                checksums=crc_path(prefix),
                page_bytes=page_bytes,
            )
        )

    def _check_ends(self) -> int:
        """Checks the first and last entries of the index; returns the number of bytes of .bin that it describes."""
        first, last = int(self._documents[0]), int(self._documents[-1])
        if first != 0 or last != self.num_sequences:
            raise ValueError(
                f"{self._idx}: document indices run from {first} to {last}, expected 0 to"
                f" {self.num_sequences}; the file is damaged, prepare it again"
            )
        if not self.num_sequences:
            return 0
        return int(self._pointers[-1]) + int(self._sizes[-1]) * self.dtype.itemsize

    @property
    def name(self) -> str:
        """The file of the tokens, for messages."""
        return str(self._bin)

    def __len__(self) -> int:
        return self.num_documents

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        """int64 lengths in tokens of `documents`; reads only their index entries."""
        self._check_index()
        first = self._documents[documents]
        last = self._documents[documents + 1] - 1
        if (first == last).all():
            return np.asarray(self._sizes[first], dtype=np.int64)
        empty = last < first
        first, last = np.where(empty, 0, first), np.where(empty, 0, last)
        begin = self._pointers[first]
        end = self._pointers[last] + self._sizes[last].astype(np.int64) * self.dtype.itemsize
        return np.where(empty, 0, (end - begin) // self.dtype.itemsize).astype(np.int64)

    def _check_index(self) -> None:
        """Raises DamagedData if the index was truncated: access to its memory map would kill the process."""
        found = os.fstat(self._idx_file.fileno()).st_size
        if found < self._idx_bytes:
            raise DamagedData(
                f"{self._idx}: expected {self._idx_bytes} bytes, found {found}; it became shorter"
                " while it was in use, copy it again"
            )

    def document_length(self, document: int) -> int:
        """Tokens of one document."""
        return int(self.document_lengths(np.array([document]))[0])

    def lengths(self) -> Iterator[np.ndarray]:
        """Lengths of all documents in order, in arrays of bounded size."""
        for start in range(0, self.num_documents, CHUNK):
            yield self.document_lengths(np.arange(start, min(start + CHUNK, self.num_documents)))

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Tokens [start, start + length) of a document, read-only.

        Raises DamagedData if they cannot be read, or are outside the document or the file.
        """
        size = self.document_length(document)
        if not length and 0 <= start <= size:
            return self._tokens.read(0, 0)
        first = int(self._pointers[int(self._documents[document])]) // self.dtype.itemsize
        if start < 0 or length < 0 or start + length > size or first + size > self.num_tokens:
            raise DamagedData(
                f"{self._bin}: tokens [{start}, {start + length}) of document {document} were asked"
                f" for, it has {size}; the index does not fit the tokens, prepare it again"
            )
        return self._tokens.read(first + start, first + start + length)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the whole file, documents end to end, read-only."""
        return self._tokens.read(start, stop)


def _read_header(path: Path) -> tuple[int, int, int]:
    with path.open("rb") as file:
        head = file.read(HEADER.size)
    if len(head) < HEADER.size:
        raise ValueError(
            f"{path}: expected at least {HEADER.size} bytes, found {len(head)}; the file is cut"
            " off, prepare it again"
        )
    magic, version, code, num_sequences, num_indices = HEADER.unpack(head)
    if magic != MAGIC:
        raise ValueError(
            f"{path}: starts with {magic!r}, expected {MAGIC!r}; not a Megatron index, make one"
            " with `ropewalk prepare`"
        )
    if version != VERSION:
        raise ValueError(f"{path}: version {version}, expected {VERSION}; prepare it again")
    if code not in DTYPES or DTYPES[code].kind == "f":
        raise ValueError(f"{path}: dtype code {code} is no integer type; prepare it again")
    if num_indices < 1:
        raise ValueError(f"{path}: has no document indices; prepare it again")
    return code, num_sequences, num_indices


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        what = "cut off" if found < expected else "longer than its index says"
        raise ValueError(
            f"{path}: expected {expected} bytes, found {found}; the file is {what}, copy it again"
            " or prepare it again"
        )


def write_index(file: BinaryIO, sizes: np.ndarray, dtype: np.dtype[np.generic]) -> None:
    """Write the .idx of documents of one sequence each; `sizes` (int32) may be a memory map."""
    code = next(code for code, known in DTYPES.items() if known == dtype.newbyteorder("<"))
    file.write(HEADER.pack(MAGIC, VERSION, code, len(sizes), len(sizes) + 1))
    for start in range(0, len(sizes), CHUNK):
        file.write(sizes[start : start + CHUNK].astype("<i4").tobytes())
    pointer = 0
    for start in range(0, len(sizes), CHUNK):
        ends = np.cumsum(sizes[start : start + CHUNK].astype(np.int64)) * dtype.itemsize + pointer
        file.write(np.concatenate([[pointer], ends[:-1]]).astype("<i8").tobytes())
        pointer = int(ends[-1])
    for start in range(0, len(sizes) + 1, CHUNK):
        stop = min(start + CHUNK, len(sizes) + 1)
        file.write(np.arange(start, stop, dtype="<i8").tobytes())
