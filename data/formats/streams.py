"""Files as streams of uncompressed bytes; a truncated file always raises."""

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple, Protocol

import zstandard

# Errors of reading a damaged, truncated or unreadable file.
STREAM_ERRORS = (EOFError, OSError, zlib.error, zstandard.ZstdError, lzma.LZMAError)

READ_BYTES = 1 << 20
# Limit of the window that a decompressor may keep in memory.
MOST_MEMORY = 1 << 31


class LineStream(Protocol):
    """The methods of a binary file that readers use."""

    def read(self, size: int = -1, /) -> bytes: ...

    def readline(self, size: int = -1, /) -> bytes: ...


class Opener(NamedTuple):
    """Opens a file as a stream. seekable: whether stored and uncompressed bytes are the same.

    name: of the compression. magic: first bytes of such a file.
    """

    open: Callable[[IO[bytes]], LineStream]
    seekable: bool
    name: str = ""
    magic: bytes = b""


class FrameStream(io.RawIOBase):
    """Decompresses all frames of a file; raises EOFError if the file ends inside a frame.

    zstandard's own stream_reader treats the end of a truncated file as a normal end; bz2 and lzma do so with damage
    after the first frame. Memory is bounded by `chunk` bytes of input and their expansion by `expand`.

    new_frame: makes a decompressor. expand(decompressor, input): the next bytes, bounded in memory. padding: a byte
    that may be repeated between frames.
    """

    def __init__(
        self,
        file: IO[bytes],
        new_frame: Callable[[], Any],
        expand: Callable[[Any, bytes], bytes],
        *,
        chunk: int,
        padding: bytes = b"",
    ) -> None:
        self._file = file
        self._new_frame = new_frame
        self._expand = expand
        self._chunk = chunk
        self._padding = padding
        self._frame = new_frame()
        self._inside = False
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Fill `buffer` with the next uncompressed bytes; 0 at the end of the last frame."""
        while not self._output:
            if not self._input and getattr(self._frame, "needs_input", True):
                self._input = self._file.read(self._chunk)
                if not self._input:
                    if self._inside:
                        raise EOFError("the file ends inside a compressed frame")
                    return 0
            if self._padding and not self._inside:
                self._input = self._input.lstrip(self._padding)
                if not self._input:
                    continue
            self._output = memoryview(self._expand(self._frame, self._input))
            self._input = b""
            self._inside = not self._frame.eof
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = self._new_frame()
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


def _open_zstandard(file: IO[bytes]) -> LineStream:
    """Bounds memory: a chunk of a malicious file expands to at most 32 MiB."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MOST_MEMORY)
    frames = FrameStream(
        file,
        decompressor.decompressobj,
        lambda frame, content: frame.decompress(content),
        chunk=1024,
    )
    return io.BufferedReader(frames, READ_BYTES)  # type: ignore[type-var]


def _open_xz(file: IO[bytes]) -> LineStream:
    frames = FrameStream(
        file,
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY),
        _expand_bounded,
        chunk=1 << 16,
        padding=b"\0",
    )
    return io.BufferedReader(frames, READ_BYTES)  # type: ignore[type-var]


def _open_bzip2(file: IO[bytes]) -> LineStream:
    frames = FrameStream(file, bz2.BZ2Decompressor, _expand_bounded, chunk=1 << 16)
    return io.BufferedReader(frames, READ_BYTES)  # type: ignore[type-var]


def _expand_bounded(frame: Any, content: bytes) -> bytes:
    expanded: bytes = frame.decompress(content, READ_BYTES)
    return expanded


PLAIN = Opener(lambda file: file, seekable=True)
GZIP = Opener(lambda file: gzip.GzipFile(fileobj=file), False, "gzip", b"\x1f\x8b")
ZSTANDARD = Opener(_open_zstandard, False, "zstandard", b"\x28\xb5\x2f\xfd")
XZ = Opener(_open_xz, False, "xz", b"\xfd7zXZ\0")
BZIP2 = Opener(_open_bzip2, False, "bzip2", b"BZh")


def open_regular(path: str) -> IO[bytes]:
    """Opens `path` for reading; does not wait for the writer of a pipe.

    Raises:
        OSError: it is not a regular file, or cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(handle, "rb")


def open_at(file: IO[bytes], opener: Opener, offset: int) -> LineStream:
    """The stream of `file` from uncompressed byte `offset` on (found by reading, if compressed).

    Raises:
        EOFError: the file is empty, but should be compressed.
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
