"""Plans and reads global batches ahead of the trainer, in one background thread.

    shapes -> planner.plan (lengths only, whole batch) -> rows of this rank -> token files -> batch

Every rank plans the whole batch, so counts over all ranks need no communication. Each rank reads only
the tokens of its own rows, which `rows_of_rank` (packing/spans.py) selects.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from data.batch import PackedBatch, RankReader
from data.packing.planner import BatchPlanner
from data.packing.spans import BatchShape, Span


@dataclass(frozen=True)
class GlobalBatch:
    """One rank's part of the data of one optimizer step.

    micro_batches: this rank's. Over all ranks: valid_by_source, the tokens with a target, by source in order;
    padding_tokens. cursor: the state of the planner AFTER this batch, plain JSON (store it once the step is done).
    """

    shape: BatchShape
    micro_batches: tuple[PackedBatch, ...]
    valid_by_source: tuple[int, ...]
    padding_tokens: int
    cursor: dict[str, Any]

    @property
    def valid_tokens(self) -> int:
        """Tokens with a target, summed over all ranks."""
        return sum(self.valid_by_source)


def make_global_batch(planner: BatchPlanner, shape: BatchShape, reader: RankReader) -> GlobalBatch:
    """Plan the next batch and read this rank's part of it; raises ValueError for an impossible shape."""
    problems = shape.problems(reader.dp_size)
    if problems:
        raise ValueError("; ".join(problems))
    placing = planner.placing(shape)
    rows = planner.plan(shape)
    return GlobalBatch(
        shape=shape,
        micro_batches=reader.read(rows, shape.sequence_length, shape.rows_per_micro_batch, placing),
        valid_by_source=_valid_by_source(rows, len(shape.weights)),
        padding_tokens=shape.batch_tokens - _real_tokens(rows),
        cursor=planner.state_dict(),
    )


def _valid_by_source(rows: Sequence[Sequence[Span]], num_sources: int) -> tuple[int, ...]:
    valid = [0] * num_sources
    for row in rows:
        for span in row:
            valid[span.source] += span.valid
    return tuple(valid)


def _real_tokens(rows: Sequence[Sequence[Span]]) -> int:
    return sum(span.length for row in rows for span in row)


class Loader:
    """Iterator of GlobalBatch, one per shape; a context manager.

    It prepares up to `prefetch` batches ahead. `__next__` raises an error of planning or reading in place of the batch.
    Only the loader may use `planner` from now on: resume from a batch's cursor, never from the planner itself.
    """

    def __init__(
        self,
        planner: BatchPlanner,
        reader: RankReader,
        shapes: Iterator[BatchShape],
        prefetch: int = 2,
    ) -> None:
        if prefetch < 1:
            raise ValueError(f"prefetch={prefetch}: must be at least 1; use 2")
        self._planner = planner
        self._reader = reader
        self._shapes = shapes
        self._ready: queue.Queue[GlobalBatch | Exception | None] = queue.Queue(prefetch)
        self._stop = threading.Event()
        self._ended: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        last: Exception | None = None
        try:
            for shape in self._shapes:
                batch = make_global_batch(self._planner, shape, self._reader)
                if not self._put(batch):
                    return
        except Exception as error:  # the consumer raises it
            last = error
        self._put(last)

    def _put(self, item: GlobalBatch | Exception | None) -> bool:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> GlobalBatch:
        if self._ended is not None:
            raise self._ended
        if self._stop.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, GlobalBatch):
            return item
        self._ended = StopIteration() if item is None else item
        raise self._ended

    def close(self) -> None:
        """Stop the thread and wait for it; no further batch is returned. Safe to call twice."""
        self._stop.set()
        while not self._ready.empty():
            self._ready.get_nowait()
        self._thread.join()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
