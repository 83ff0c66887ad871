"""Reads tokens of PREFIX.bin and checks them against PREFIX.crc.

PREFIX.crc has the CRC-32 of every page of PREFIX.bin as a little-endian uint32; the last page may be
short. Tokens are read with pread, not by memory map: a truncated or unreadable file raises an
exception, where access to a map would kill the process.
"""

import os
import zlib
from pathlib import Path

import numpy as np

PAGE_BYTES = 16 << 10
ENTRY = np.dtype("<u4")


class DamagedData(ValueError):
    """Token files have changed since they were opened, do not match their checksums, or cannot be read."""


class TokenFile:
    """`num_tokens` tokens of `dtype` in the file `path`; several threads may read at a time.

    checksums: the file of the checksums of pages of `page_bytes`; None: contents are not checked.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype[np.generic],
        num_tokens: int,
        *,
        checksums: Path | None = None,
        page_bytes: int = PAGE_BYTES,
    ) -> None:
        self._file = path.open("rb", buffering=0)
        self._path = path
        self._checksums = checksums.open("rb", buffering=0) if checksums is not None else None
        self._checksums_path = checksums or path
        self._dtype = dtype
        self._bytes = num_tokens * dtype.itemsize
        self._page_bytes = page_bytes

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop), read-only.

        Raises:
            DamagedData: the tokens cannot be read or a checksum differs; names the file and the bytes.
        """
        first, last = start * self._dtype.itemsize, stop * self._dtype.itemsize
        if self._checksums is None or first == last:
            return np.frombuffer(_read(self._file.fileno(), self._path, first, last), self._dtype)
        # Reads whole pages for their checksums.
        page = first // self._page_bytes
        begin = page * self._page_bytes
        end = min(-(-last // self._page_bytes) * self._page_bytes, self._bytes)
        content = memoryview(_read(self._file.fileno(), self._path, begin, end))
        self._check(page, content)
        return np.frombuffer(content[first - begin : last - begin], self._dtype)

    def _check(self, page: int, content: memoryview) -> None:
        """Compare whole pages, from number `page` on, with their checksums."""
        assert self._checksums is not None
        size, path = self._page_bytes, self._checksums_path
        starts = range(0, len(content), size)
        at = page * ENTRY.itemsize
        stop = at + len(starts) * ENTRY.itemsize
        expected = np.frombuffer(_read(self._checksums.fileno(), path, at, stop), ENTRY).tolist()
        for start, checksum in zip(starts, expected, strict=True):
            found = zlib.crc32(content[start : start + size])
            if found != checksum:
                begin = page * size + start
                raise DamagedData(
                    f"{self._path}: damaged between byte {begin} and byte"
                    f" {min(begin + size, self._bytes)} (checksum {found:08x}, {path} has"
                    f" {checksum:08x}); copy it again or prepare the corpus again"
                )


def _read(file: int, path: Path, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of an open file."""
    pieces = []
    try:
        while start < stop:
            piece = os.pread(file, stop - start, start)
            if not piece:
                raise DamagedData(
                    f"{path}: ends at byte {os.fstat(file).st_size}, byte {start} was asked for;"
                    " it became shorter while it was in use, copy it again"
                )
            pieces.append(piece)
            start += len(piece)
    except OSError as error:
        raise DamagedData(
            f"{path}: cannot be read ({error.strerror}); look at the disk it is on, or copy it again"
        ) from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
