"""PREFIX.labels: which tokens of PREFIX.bin have a label (data/labels.py), as runs of tokens in a row that have one.

    8 bytes  b"RWLABELS"
    uint64   version, 1
    uint64   D, number of documents
    uint64   R, number of runs
    int64    D + 1 numbers of runs: document d has the runs [first[d], first[d + 1])
    int64    R + 1 prefix counts: tokens of runs 0 to r - 1 together; the last one is that of the whole file
    int32    R starts: first token of a run, counted from the start of its document

All numbers are little-endian. The runs of a document ascend and do not touch. A run has as many tokens as its prefix
count is below the next one, so the labels in any piece of a document are a difference of two sums:

    before(x) = prefix[r] + min(x - start[r], prefix[r + 1] - prefix[r])      r: the last run that starts before x
    labels of tokens [x, y) = before(y) - before(x)

The file is mapped: opening it reads its header, a query some entries in a binary search over the document's runs.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.tokens.prefix import labels_path
from data.tokens.token_file import DamagedData

MAGIC = b"RWLABELS"
VERSION = 1
HEADER = struct.Struct("<8sQQQ")
CHUNK = 1 << 20


class LabelFile:
    """The labels of `num_documents` documents of PREFIX.

    num_labelled: tokens with a label in the whole file.

    Raises:
        ValueError: the file is missing, has another format, the wrong length or another number of documents.
    """

    def __init__(self, prefix: str | Path, num_documents: int) -> None:
        self._path = labels_path(prefix)
        if not self._path.is_file():
            raise ValueError(f"{self._path}: no such file, its manifest has one; copy it again")
        self._file = self._path.open("rb", buffering=0)
        head = self._file.read(HEADER.size)
        if len(head) < HEADER.size or head[: len(MAGIC)] != MAGIC:
            raise ValueError(f"{self._path}: not a file of labels; make it with `ropewalk prepare`")
        _, version, documents, runs = HEADER.unpack(head)
        if version != VERSION:
            raise ValueError(f"{self._path}: version {version}, expected {VERSION}; make it again")
        if documents != num_documents:
            raise ValueError(
                f"{self._path}: has labels for {documents} documents, the tokens have {num_documents}; make both again"
            )
        self._bytes = HEADER.size + 8 * (documents + 1) + 8 * (runs + 1) + 4 * runs
        self._check_size(exactly=True)
        content = np.asarray(np.memmap(self._file, mode="r", dtype=np.uint8))
        at = HEADER.size
        self._first = content[at : at + 8 * (documents + 1)].view("<i8")
        at += 8 * (documents + 1)
        self._before = content[at : at + 8 * (runs + 1)].view("<i8")
        at += 8 * (runs + 1)
        self._starts = content[at:].view("<i4")
        self.num_labelled = int(self._before[-1])

    def _check_size(self, *, exactly: bool = False) -> None:
        """Raises an error if the file was cut off: access to its memory map would kill the process."""
        found = os.fstat(self._file.fileno()).st_size
        if found < self._bytes or (exactly and found > self._bytes):
            raise DamagedData(
                f"{self._path}: expected {self._bytes} bytes, found {found}; copy it again or prepare it again"
            )

    def count(self, document: int, start: int, stop: int) -> int:
        """Tokens with a label among tokens [start, stop) of a document; 0 if there is none."""
        if stop <= start:
            return 0
        runs = self._runs_of(document)
        return self._up_to(runs, stop) - self._up_to(runs, start)

    def mask(self, document: int, start: int, length: int) -> np.ndarray:
        """bool (length,): whether each of the tokens from `start` on has a label."""
        runs = self._runs_of(document)
        # The last run that starts at or before `start`, and those that start in the piece.
        first = max(runs.start, self._starting_before(runs, start + 1) - 1)
        last = max(first, self._starting_before(runs, start + length))
        begins = self._starts[first:last].astype(np.int64) - start
        ends = begins + np.diff(self._before[first : last + 1])
        inside = ends > 0
        edges = np.zeros(length + 1, dtype=np.int8)
        edges[np.maximum(begins[inside], 0)] = 1
        edges[np.minimum(ends[inside], length)] -= 1
        return edges[:length].cumsum(dtype=np.int8).view(bool)

    def _runs_of(self, document: int) -> range:
        self._check_size()
        return range(int(self._first[document]), int(self._first[document + 1]))

    def _starting_before(self, runs: range, token: int) -> int:
        """The number of the first of these runs that does not start before `token`."""
        return runs.start + int(np.searchsorted(self._starts[runs.start : runs.stop], token))

    def _up_to(self, runs: range, token: int) -> int:
        """Tokens with a label before `token` of the document with these runs, and before the document."""
        run = self._starting_before(runs, token) - 1
        if run < runs.start:
            return int(self._before[runs.start])
        before, after = int(self._before[run]), int(self._before[run + 1])
        return before + min(token - int(self._starts[run]), after - before)


def write_labels(file: BinaryIO, run_counts: np.ndarray, runs: np.ndarray) -> None:
    """Write PREFIX.labels. run_counts: int32 (D,), runs of each document; runs: int32 (R, 2), first token and number of
    tokens of each. Both may be memory maps."""
    file.write(HEADER.pack(MAGIC, VERSION, len(run_counts), len(runs)))
    _write_sums(file, run_counts)
    _write_sums(file, runs[:, 1])
    for start in range(0, len(runs), CHUNK):
        file.write(runs[start : start + CHUNK, 0].astype("<i4").tobytes())


def _write_sums(file: BinaryIO, counts: np.ndarray) -> None:
    """The len(counts) + 1 prefix sums, as int64."""
    total = 0
    file.write(np.zeros(1, dtype="<i8").tobytes())
    for start in range(0, len(counts), CHUNK):
        sums = np.cumsum(counts[start : start + CHUNK], dtype=np.int64) + total
        file.write(sums.astype("<i8").tobytes())
        total = int(sums[-1])
