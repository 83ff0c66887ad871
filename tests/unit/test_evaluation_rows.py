"""Held-out rows: the same for every number of ranks, every position over the same documents."""

from collections import Counter

import numpy as np
import pytest
import torch

from data.batch import IGNORE, RankReader
from data.held_out import EvaluationSet, evaluation_batches
from data.held_out_rows import evaluation_rows
from data.labels import EveryTarget
from data.packing.document_rules import DocumentRules, Pose
from data.packing.positions import Placing
from data.packing.spans import Span


class Source(EveryTarget):
    """Documents of given lengths; token = 100 * document + offset."""

    eos_id = 7
    longest: int | None = None

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)
        self.num_documents = len(lengths)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return self.lengths[documents]

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return 100 * document + np.arange(start, start + length)


LENGTHS = [10, 3, 35, 9, 8, 24, 1, 17, 8, 16]


def _set(rank: int = 0, size: int = 1, **changes: int) -> EvaluationSet:
    shape = {"sequence_length": 8, "micro_batch_tokens": 16, "max_tokens": 10_000, **changes}
    source = Source(LENGTHS)
    reader = RankReader([source], source.eos_id, rank, size)
    return evaluation_batches(source, reader, **shape)


def test_rows_are_single_segments_first_pieces_first() -> None:
    rows, contiguous = evaluation_rows(Source(LENGTHS), 8, 10_000)
    assert contiguous
    assert all(len(row) == 1 and row[0].length == 8 for row in rows)
    starts = [row[0].start for row in rows]
    assert starts == sorted(starts)
    pieces = Counter(row[0].document for row in rows)
    assert pieces == {d: n // 8 for d, n in enumerate(LENGTHS) if n >= 8}
    first = [row[0].document for row in rows[:8]]
    assert [row[0].document for row in rows[8:11]] == [d for d in first if LENGTHS[d] >= 16][:3]


def test_every_position_is_averaged_over_the_same_documents() -> None:
    for max_tokens in (1, 24, 50, 10_000):
        found = _set(max_tokens=max_tokens)
        rows = [m.targets_T.reshape(-1, 8) for m in found]
        labels = np.concatenate([row.numpy() for row in rows]) != IGNORE
        per_position = labels.sum(axis=0)
        assert set(per_position[:-1]) == {found.num_rows}
        assert per_position[-1] == 0
        assert found.total_tokens <= max(8, max_tokens)
        assert found.valid_tokens == labels.sum() == 7 * found.num_rows


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("micro", [8, 16, 40])
def test_ranks_have_equal_counts_and_together_the_same_rows(size: int, micro: int) -> None:
    whole = _set()
    expected = sorted((s.document, s.start) for m in whole for s in m.spans)
    shares = [_set(rank, size, micro_batch_tokens=micro) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    assert sorted((s.document, s.start) for e in shares for m in e for s in m.spans) == expected
    for share in shares:
        assert (share.num_rows, share.total_tokens, share.valid_tokens) == (
            whole.num_rows,
            whole.total_tokens,
            whole.valid_tokens,
        )
        for batch in share:
            assert len(batch.tokens_T) == micro == sum(batch.lengths)
    assert sum(m.valid_tokens for share in shares for m in share) == whole.valid_tokens


def test_shorter_documents_are_packed_whole_where_none_is_long_enough() -> None:
    rows, contiguous = evaluation_rows(Source(LENGTHS), 40, 10_000)
    assert not contiguous
    spans = [span for row in rows for span in row]
    assert sorted(span.document for span in spans) == list(range(10))
    assert all(span == Span(0, span.document, 0, LENGTHS[span.document], 0) for span in spans)
    assert all(sum(span.length for span in row) <= 40 for row in rows)
    assert len(rows) == 4
    few, _ = evaluation_rows(Source(LENGTHS), 40, 80)
    assert len(few) == 2


def test_documents_are_kept_apart_as_in_the_stage_and_positions_have_no_skips() -> None:
    source = Source(LENGTHS)
    shape = {"sequence_length": 40, "micro_batch_tokens": 40, "max_tokens": 10_000}
    reader = RankReader([source], source.eos_id)
    rules = DocumentRules(False, False, Pose(2, 10_000))
    found = list(evaluation_batches(source, reader, **shape, placing=Placing(rules)))
    for batch, apart in zip(found, evaluation_batches(source, reader, **shape), strict=True):
        assert batch.lengths == tuple(
            n for n in (40 - batch.padding_tokens, batch.padding_tokens) if n
        )
        assert batch.positions_T is None, "the place in the row"
        assert torch.equal(batch.targets_T, apart.targets_T)
        # Losses are counted by the place in the segment, under any rules.
        places = [place for length in apart.lengths for place in range(length)]
        assert batch.place_in_segment_T().tolist() == places
    going_on = Placing(DocumentRules(True, False, Pose(2, 10_000)))
    for batch in evaluation_batches(source, reader, **shape, placing=going_on):
        real = 40 - batch.padding_tokens
        assert batch.positions_T.tolist() == [*range(real), *range(batch.padding_tokens)]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="micro_batch_tokens=12: must be a multiple"):
        _set(micro_batch_tokens=12)
    with pytest.raises(ValueError, match="heldout: holds no token"):
        empty = Source([0, 0])
        reader = RankReader([empty], 7)
        evaluation_batches(empty, reader, sequence_length=8, micro_batch_tokens=8, max_tokens=8)
