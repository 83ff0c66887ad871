"""Ranks together hold the planned batch, tokens are the files' own, a resumed run is the same run."""

import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batch import IGNORE, PackedBatch, RankReader, assemble
from data.labels import EveryTarget
from data.loader import GlobalBatch, Loader, make_global_batch
from data.packing.planner import BatchPlanner
from data.packing.spans import BatchShape, Span
from data.tokens.indexed_dataset import IndexedDataset, write_index

PAD = 9


class Tokens(EveryTarget, IndexedDataset):
    """Token files as a source."""


def _dataset(prefix: Path, lengths: list[int]) -> Tokens:
    """Token number t of the file is t + 10: every token says where it is from."""
    with Path(f"{prefix}.idx").open("wb") as file:
        write_index(file, np.array(lengths, dtype=np.int32), np.dtype(np.uint16))
    Path(f"{prefix}.bin").write_bytes((np.arange(sum(lengths), dtype=np.uint16) + 10).tobytes())
    return Tokens(prefix)


@pytest.fixture
def sources(tmp_path: Path) -> list[IndexedDataset]:
    return [
        _dataset(tmp_path / "a", [1, 300, 17, 64, 2, 1, 129, 33, 8, 70]),
        _dataset(tmp_path / "b", [25] * 11),
    ]


WEIGHTS = (0.6, 0.4)


def _run(
    sources: list[IndexedDataset],
    shapes: list[BatchShape],
    rank: int = 0,
    size: int = 1,
    cursor: dict[str, object] | None = None,
    prefetch: int = 2,
) -> list[GlobalBatch]:
    planner = BatchPlanner(sources, seed=3, look_ahead=8)
    if cursor is not None:
        planner.load_state_dict(cursor)
    reader = RankReader(sources, PAD, rank, size)
    with Loader(planner, reader, iter(shapes), prefetch) as loader:
        return list(loader)


def _check_stream(batch: PackedBatch, sources: list[IndexedDataset], length: int) -> None:
    """A packed batch against the definition, token by token."""
    assert batch.tokens_T.dtype == batch.targets_T.dtype == torch.int64
    assert sum(batch.lengths) == len(batch.tokens_T) == len(batch.targets_T)
    tokens, targets = batch.tokens_T.tolist(), batch.targets_T.tolist()
    spans = list(batch.spans)
    at = 0
    for segment in batch.lengths:
        piece, labels = tokens[at : at + segment], targets[at : at + segment]
        assert at // length == (at + segment - 1) // length, "a segment crosses a row"
        if spans and piece[0] != PAD:
            span = spans.pop(0)
            assert span.length == segment
            source = sources[span.source]
            before = int(source.document_lengths(np.arange(span.document)).sum())
            assert piece == list(
                range(before + span.start + 10, before + span.start + 10 + segment)
            )
            assert labels == [*piece[1:], IGNORE]
            assert set(batch.sources_T[at : at + segment].tolist()) == {span.source}
        else:
            assert piece == [PAD] * segment
            assert labels == [IGNORE] * segment
            assert (at + segment) % length == 0, "padding is not at the end of its row"
        at += segment
    assert not spans
    assert batch.valid_tokens == sum(label != IGNORE for label in targets)
    assert batch.padding_tokens == sum(token == PAD for token in tokens)


def _shapes(length: int, count: int) -> list[BatchShape]:
    return [BatchShape(length, 12 * length, 2 * length, WEIGHTS)] * count


def test_streams_hold_the_files_own_tokens_and_labels_never_cross(
    sources: list[IndexedDataset],
) -> None:
    shapes = _shapes(64, 4) + _shapes(16, 4) + _shapes(128, 4) + _shapes(2, 2) + _shapes(1, 2)
    batches = _run(sources, shapes)
    assert len(batches) == len(shapes)
    for shape, batch in zip(shapes, batches, strict=True):
        assert batch.shape == shape
        assert len(batch.micro_batches) == 6
        for micro in batch.micro_batches:
            _check_stream(micro, sources, shape.sequence_length)
        assert batch.valid_tokens == sum(m.valid_tokens for m in batch.micro_batches)
        sources_T = torch.cat([m.sources_T[m.targets_T != IGNORE] for m in batch.micro_batches])
        assert batch.valid_by_source == tuple(
            torch.bincount(sources_T.long(), minlength=2).tolist()
        )
        assert batch.padding_tokens == sum(m.padding_tokens for m in batch.micro_batches)
    assert sum(b.padding_tokens for b in batches) < 0.02 * sum(
        b.shape.batch_tokens for b in batches
    )


@pytest.mark.parametrize(("size", "micro_rows"), [(1, 12), (2, 3), (3, 1), (4, 3), (6, 2), (12, 1)])
def test_ranks_and_micro_batches_only_cut_the_same_rows(
    sources: list[IndexedDataset], size: int, micro_rows: int
) -> None:
    length = 64
    plain = _run(sources, [BatchShape(length, 12 * length, 12 * length, WEIGHTS)] * 3)
    shapes = [BatchShape(length, 12 * length, micro_rows * length, WEIGHTS)] * 3
    ranks = [_run(sources, shapes, rank, size) for rank in range(size)]
    for step, whole in enumerate(plain):
        parts = [rank[step] for rank in ranks]
        # Micro-batch m of rank d holds group m * size + d of the rows.
        dealt = [part.micro_batches[m] for m in range(12 // (micro_rows * size)) for part in parts]
        tokens = torch.cat([micro.tokens_T for micro in dealt])
        assert torch.equal(tokens, whole.micro_batches[0].tokens_T)
        for part in parts:
            assert (part.valid_tokens, part.padding_tokens, part.cursor) == (
                whole.valid_tokens,
                whole.padding_tokens,
                whole.cursor,
            )


def test_interrupted_and_resumed_on_other_ranks_every_token_comes_once(
    sources: list[IndexedDataset],
) -> None:
    shapes = _shapes(64, 5) + _shapes(32, 5) + _shapes(128, 5)
    straight = _run(sources, shapes)
    spans: list[Span] = [
        s for b in _run(sources, shapes[:7]) for m in b.micro_batches for s in m.spans
    ]
    cursor = json.loads(json.dumps(_run(sources, shapes[:7])[-1].cursor))
    for rank in range(3):
        resumed = _run(sources, shapes[7:], rank, 3, cursor)
        spans += [s for b in resumed for m in b.micro_batches for s in m.spans]
        assert [b.cursor for b in resumed] == [b.cursor for b in straight[7:]]
        assert [b.valid_tokens for b in resumed] == [b.valid_tokens for b in straight[7:]]
    used = Counter(
        (s.source, s.document, s.epoch, offset)
        for s in spans
        for offset in range(s.start, s.start + s.length)
    )
    assert set(used.values()) == {1}
    pools = straight[-1].cursor["pools"]
    pending = {(source, span[1], span[4]) for source, pool in enumerate(pools) for span in pool}
    for source, dataset in enumerate(sources):
        epochs = max(epoch for s, _, epoch, _ in used if s == source)
        assert epochs >= 1
        for epoch in range(epochs):
            for document in range(dataset.num_documents):
                if (source, document, epoch) not in pending:
                    length = dataset.document_length(document)
                    offsets = {o for s, d, e, o in used if (s, d, e) == (source, document, epoch)}
                    assert offsets == set(range(length))


def test_the_cursor_is_the_state_after_its_batch_however_far_the_thread_is_ahead(
    sources: list[IndexedDataset],
) -> None:
    shapes = _shapes(64, 8)
    expected = []
    planner = BatchPlanner(sources, seed=3, look_ahead=8)
    for shape in shapes:
        batch = make_global_batch(planner, shape, RankReader(sources, PAD))
        expected.append(json.dumps(batch.cursor))
    for prefetch in (1, 5):
        batches = _run(sources, shapes, prefetch=prefetch)
        assert [json.dumps(batch.cursor) for batch in batches] == expected


def test_each_rank_reads_only_its_own_rows(sources: list[IndexedDataset]) -> None:
    class Recording(EveryTarget):
        def __init__(self, dataset: IndexedDataset) -> None:
            self.dataset = dataset
            self.tokens = 0

        def read(self, document: int, start: int, length: int) -> np.ndarray:
            self.tokens += length
            return self.dataset.read(document, start, length)

    readers = [Recording(source) for source in sources]
    planner = BatchPlanner(sources, seed=3, look_ahead=8)
    (shape,) = _shapes(64, 1)
    batch = make_global_batch(planner, shape, RankReader(readers, PAD, 1, 3))
    own = sum(span.length for micro in batch.micro_batches for span in micro.spans)
    assert sum(reader.tokens for reader in readers) == own <= 12 * 64 // 3


def test_an_error_in_the_thread_comes_out_where_the_batch_would_have(
    sources: list[IndexedDataset],
) -> None:
    class Failing(EveryTarget):
        reads = 0

        def read(self, document: int, start: int, length: int) -> np.ndarray:
            Failing.reads += 1
            if Failing.reads > 40:
                raise OSError("the disk is gone")
            return sources[0].read(document, start, length)

    planner = BatchPlanner(sources[:1], seed=0, look_ahead=4)
    shapes = [BatchShape(64, 256, 64, (1.0,))] * 50
    with Loader(planner, RankReader([Failing()], PAD), iter(shapes)) as loader:
        with pytest.raises(OSError, match="the disk is gone"):
            list(loader)
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)


def test_closing_early_ends_the_thread_also_on_an_endless_stream(
    sources: list[IndexedDataset],
) -> None:
    def endless() -> "object":
        while True:
            yield from _shapes(64, 1)

    before = threading.active_count()
    planner = BatchPlanner(sources, seed=0)
    loader = Loader(planner, RankReader(sources, PAD), endless())  # type: ignore[arg-type]
    next(loader)
    assert threading.active_count() == before + 1
    loader.close()
    loader.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(loader)


def test_impossible_shapes_name_the_nearest_that_work(sources: list[IndexedDataset]) -> None:
    shape = BatchShape(64, 1000, 100, WEIGHTS)
    problems = shape.problems(2)
    assert any("micro_batch_tokens=100" in p and "use 64 or 128" in p for p in problems)
    assert any("batch_tokens=1000" in p and "use 960 or 1024" in p for p in problems)
    dealt = BatchShape(64, 64 * 9, 64, WEIGHTS).problems(4)
    assert dealt == [
        "batch_tokens=576: must be a multiple of micro_batch_tokens x data-parallel ranks"
        " = 64 x 4 = 256; use 512 or 768"
    ]
    assert BatchShape(64, 64, 64, WEIGHTS).problems(4)[0].endswith("use 256")
    assert BatchShape(0, 64, 64, WEIGHTS).problems(1) == ["sequence_length=0: must be at least 1"]
    with pytest.raises(ValueError, match="batch_tokens=1000"):
        _run(sources, [shape])
    with pytest.raises(ValueError, match="dp_rank=2: must be in"):
        _run(sources, [], 2, 2)


def test_a_row_without_spans_is_one_segment_of_padding(sources: list[IndexedDataset]) -> None:
    batch = assemble([[], [Span(0, 1, 5, 3, 0)]], 4, readers=sources, pad_id=PAD)
    assert (batch.lengths, batch.starts) == ((4, 3, 1), (0, 4, 7))
    assert (batch.valid_tokens, batch.padding_tokens) == (2, 5)
    _check_stream(batch, sources, 4)


class _Ranges:
    def __init__(self, *ranges: range) -> None:
        self.ranges = ranges


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_ranks_that_share_a_stream_hold_its_tokens_and_labels_and_read_no_more(
    sources: list[IndexedDataset], size: int, chunks: int
) -> None:
    length, rows = 96, 4
    planned = BatchPlanner(sources, seed=3, look_ahead=8).plan(
        BatchShape(length, rows * length, rows * length, WEIGHTS)
    )
    whole = assemble(planned, length, readers=sources, pad_id=PAD)
    width = rows * length // (size * chunks)
    seen = np.zeros(rows * length, dtype=int)
    for rank in range(size):
        read = []

        class Watched(EveryTarget):
            def __init__(self, reader: IndexedDataset, read: list[int]) -> None:
                self.reader, self.read_tokens = reader, read

            def read(self, document: int, start: int, wanted: int) -> np.ndarray:
                self.read_tokens.append(wanted)
                return self.reader.read(document, start, wanted)

        ranges = [range(c * width, (c + 1) * width) for c in range(rank, size * chunks, size)]
        part = assemble(
            planned,
            length,
            readers=[Watched(source, read) for source in sources],
            pad_id=PAD,
            deal=lambda _lengths, _windows, ranges=ranges: _Ranges(*ranges),
        )
        index = np.concatenate([np.arange(r.start, r.stop) for r in ranges])
        assert torch.equal(part.tokens_T, whole.tokens_T[index])
        assert torch.equal(part.targets_T, whole.targets_T[index])
        assert (part.lengths, part.valid_tokens) == (whole.lengths, whole.valid_tokens)
        assert sum(read) <= len(index) + len(ranges), "one label beyond each piece at most"
        seen[index] += 1
    assert (seen == 1).all()
