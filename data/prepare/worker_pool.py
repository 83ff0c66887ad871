"""Worker processes that tokenise blocks, with results in order and bounded memory.

Workers are plain `python -m data.prepare.worker` processes connected by pipes: the caller (a trainer
with threads and a GPU) is neither forked nor imported again. When the parent ends, the worker's stdin
is closed and the worker ends.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from data.formats.records import Block, Fields
from data.prepare.block_encoder import EncodedBlock, encode_block
from data.tokenizer.any_tokenizer import TextTokenizer

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]


class WorkerDied(OSError):
    """A worker process was killed or failed; the committed work is kept.

    A subclass of OSError, so that a run that prepares its corpus ends with one line on every rank, as for a full disk.
    """


class _Worker:
    """One worker process and the pipe to it."""

    def __init__(self, tokenizer: str, fields: Fields, bos_id: int | None) -> None:
        # As in launch/ropewalk.py: modules in the current folder must not replace our packages.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "data.prepare.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **own},
            process_group=0,
        )
        self._send((tokenizer, fields, bos_id))

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _died(self) -> WorkerDied:
        code = self._process.wait()
        return WorkerDied(
            f"a worker process ended with exit code {code} (-9: killed, often for lack of memory);"
            " run the same command again to go on, with fewer workers if memory was short"
        )

    def encode(self, block: Block) -> EncodedBlock:
        """Send a block and wait for its tokens."""
        assert self._process.stdout is not None
        self._send(block)
        try:
            result = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):  # no result, or a truncated one
            raise self._died() from None
        assert isinstance(result, EncodedBlock)
        return result

    def close(self) -> None:
        """End the process, without waiting for the block that it is working on."""
        self._process.kill()
        self._process.communicate()


class WorkerPool:
    """`workers` processes that encode blocks; returns results in the order of the blocks.

    At most two blocks per worker are in progress, so memory is bounded. `workers=1` encodes in this
    process.
    """

    def __init__(
        self, tokenizer: TextTokenizer, fields: Fields, workers: int, bos_id: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._fields = fields
        self._size = workers
        self._bos_id = bos_id
        count = workers if workers > 1 else 0
        self._all: list[_Worker] = []
        try:
            for _ in range(count):
                self._all.append(_Worker(str(tokenizer.path), fields, bos_id))
        except BaseException:
            self._end_workers()
            raise
        self._idle = deque(self._all)
        self._threads = ThreadPoolExecutor(max(1, count))

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_workers()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _end_workers(self) -> None:
        for worker in self._all:
            worker.close()

    def _encode(self, block: Block) -> EncodedBlock:
        worker = self._idle.popleft()
        try:
            return worker.encode(block)
        finally:
            self._idle.append(worker)

    def encode(self, blocks: Iterable[tuple[Block, T]]) -> Iterator[tuple[Block, T, EncodedBlock]]:
        """Encode every block; yields each block, its tag and its result."""
        if not self._all:
            for block, tag in blocks:
                encoded = encode_block(block, self._tokenizer, self._fields, self._bos_id)
                yield block, tag, encoded
            return
        pending: deque[tuple[Block, T, Future[EncodedBlock]]] = deque()
        for block, tag in blocks:
            pending.append((block, tag, self._threads.submit(self._encode, block)))
            if len(pending) >= 2 * self._size:
                first, first_tag, result = pending.popleft()
                yield first, first_tag, result.result()
        while pending:
            first, first_tag, result = pending.popleft()
            yield first, first_tag, result.result()
