"""Files as streams of uncompressed bytes that never mistake a truncated file for a complete one."""

import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable
from typing import IO, NamedTuple, Protocol

import zstandard

# What reading a damaged, truncated or unreadable file raises.
STREAM_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError)

READ_BYTES = 1 << 20


class LineStream(Protocol):
    """The part of a binary file that readers use."""

    def read(self, size: int = -1, /) -> bytes: ...

    def readline(self, size: int = -1, /) -> bytes: ...


class Opener(NamedTuple):
    """How a file becomes a stream; `seekable` when stored and uncompressed bytes are the same."""

    open: Callable[[IO[bytes]], LineStream]
    seekable: bool


class ZstandardStream(io.RawIOBase):
    """Decompresses all frames of a .zst file; EOFError where the file ends inside a frame.

    zstandard's own stream_reader reports a truncated file as an ordinary end. Memory is bounded by
    one input chunk's worth of output: of a file made to burst, 32 MiB.
    """

    CHUNK = 1024

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame = self._decompressor.decompressobj()
        self._inside = False
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill `buffer` with the next uncompressed bytes; 0 at the end of the last frame."""
        while not self._output:
            if not self._input:
                self._input = self._file.read(self.CHUNK)
                if not self._input:
                    if self._inside:
                        raise EOFError("the file ends inside a compressed frame")
                    return 0
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            self._inside = not self._frame.eof
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = self._decompressor.decompressobj()
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


def _open_zstandard(file: IO[bytes]) -> LineStream:
    return io.BufferedReader(ZstandardStream(file), READ_BYTES)  # type: ignore[type-var]


PLAIN = Opener(lambda file: file, seekable=True)
GZIP = Opener(lambda file: gzip.GzipFile(fileobj=file), seekable=False)
ZSTANDARD = Opener(_open_zstandard, seekable=False)


def open_regular(path: str) -> IO[bytes]:
    """`path` for reading.

    Raises:
        OSError: it is no regular file, or cannot be read. A pipe is not waited for.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(handle, "rb")


def open_at(file: IO[bytes], opener: Opener, offset: int) -> LineStream:
    """The stream of `file` from uncompressed byte `offset` on (found by reading, if compressed).

    Raises:
        EOFError: an empty file, which no compressor makes.
    """
    if opener.seekable:
        file.seek(offset)
        return opener.open(file)
    if not os.fstat(file.fileno()).st_size:
        raise EOFError("empty, as no compressed file is")
    stream = opener.open(file)
    while offset > 0:
        piece = stream.read(min(offset, READ_BYTES))
        if not piece:
            break
        offset -= len(piece)
    return stream
