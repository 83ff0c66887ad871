"""Any source may say which targets count: plan and batch agree with the definition, token by token."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import IGNORE, RankReader, assemble
from data.held_out import evaluation_batches, evaluation_rows
from data.labels import EveryTarget
from data.loader import GlobalBatch, make_global_batch
from data.packing.planner import BatchPlanner
from data.packing.spans import BatchShape, Span, count_valid

PAD, ROW = 7, 8


class Plain(EveryTarget):
    """Documents without information about labels; token = 100 * document + offset."""

    eos_id = PAD

    def __init__(self, masks: list[list[bool]]) -> None:
        self.masks = masks
        self.num_documents = len(masks)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return np.array([len(self.masks[document]) for document in documents])

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return (100 * document + np.arange(start, start + length)).astype(np.uint16)


class Labelled(Plain):
    """Those whose tokens have a label where their mask is true."""

    # Not known: rows of full length are looked for.
    longest = None

    def count_labels(self, document: int, start: int, length: int) -> int:
        return sum(self.masks[document][start + 1 : start + length])

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray:
        return np.array(self.masks[document][start : start + length], dtype=bool)


def _targets(row: list[Span], sources: list[Plain]) -> list[int]:
    """By definition: the next token of the span if it has a label."""
    found = []
    for span in row:
        source, mask = sources[span.source], sources[span.source].masks[span.document]
        for at in range(span.start, span.start + span.length - 1):
            counts = mask[at + 1] or not isinstance(source, Labelled)
            found.append(100 * span.document + at + 1 if counts else IGNORE)
        found.append(IGNORE)
    return found + [IGNORE] * (ROW - len(found))


MASKS = st.lists(st.lists(st.booleans(), min_size=1, max_size=3 * ROW), min_size=1, max_size=6)


@settings(deadline=None)
@given(labelled=MASKS, plain=MASKS, method=st.sampled_from(["best_fit", "concat"]))
def test_targets_and_counts_of_mixed_sources_are_those_of_the_definition(
    labelled: list[list[bool]], plain: list[list[bool]], method: str
) -> None:
    sources = [Labelled(labelled), Plain(plain)]
    planner = BatchPlanner(sources, seed=3, method=method, look_ahead=4)
    shape = BatchShape(ROW, 8 * ROW, 2 * ROW, (0.7, 0.3))
    for _ in range(3):
        rows = planner.plan(shape)
        expected = [_targets(row, sources) for row in rows]
        whole = assemble(rows, ROW, readers=sources, pad_id=PAD)
        assert whole.targets_T.tolist() == [target for row in expected for target in row]
        assert whole.valid_tokens == count_valid(rows) == int((whole.targets_T != IGNORE).sum())
        for span in (span for row in rows for span in row):
            assert span.valid == sum(t != IGNORE for t in _targets([span], sources))


class _Ranges:
    def __init__(self, *ranges: range) -> None:
        self.ranges = ranges


@settings(deadline=None)
@given(labelled=MASKS, size=st.sampled_from([2, 3, 4]), chunks=st.sampled_from([1, 2]))
def test_ranks_that_share_a_stream_hold_its_labels(
    labelled: list[list[bool]], size: int, chunks: int
) -> None:
    sources, rows = [Labelled(labelled)], 6
    planned = BatchPlanner(sources, seed=3, look_ahead=4).plan(
        BatchShape(ROW, rows * ROW, rows * ROW, (1.0,))
    )
    whole = assemble(planned, ROW, readers=sources, pad_id=PAD)
    width = rows * ROW // (size * chunks)
    for rank in range(size):
        ranges = [range(c * width, (c + 1) * width) for c in range(rank, size * chunks, size)]
        part = assemble(
            planned, ROW, readers=sources, pad_id=PAD, deal=lambda *_, r=ranges: _Ranges(*r)
        )
        index = torch.cat([torch.arange(r.start, r.stop) for r in ranges])
        assert torch.equal(part.targets_T, whole.targets_T[index])
        assert part.valid_tokens == whole.valid_tokens


def _batches(sources: list[Plain], number: int, cursor: object = None) -> list[GlobalBatch]:
    planner = BatchPlanner(sources, seed=1, look_ahead=4)
    if cursor is not None:
        planner.load_state_dict(json.loads(json.dumps(cursor)))
    shape = BatchShape(ROW, 4 * ROW, 2 * ROW, (0.5, 0.5))
    reader = RankReader(sources, PAD)
    return [make_global_batch(planner, shape, reader) for _ in range(number)]


def test_the_cursor_holds_no_labels_and_a_resumed_plan_counts_the_same() -> None:
    masks = [[True, False, False] * 9, [False] * 5, [True] * 13]
    plain, labelled = [Plain(masks), Plain(masks)], [Labelled(masks), Plain(masks)]
    batches = _batches(labelled, 6)
    without = _batches(plain, 6)
    assert [batch.cursor for batch in batches] == [batch.cursor for batch in without]
    assert batches[0].valid_tokens < without[0].valid_tokens
    for batch in batches:
        found = [
            sum(
                int((m.targets_T[m.sources_T == source] != IGNORE).sum())
                for m in batch.micro_batches
            )
            for source in (0, 1)
        ]
        assert list(batch.valid_by_source) == found
    resumed = _batches(labelled, 3, batches[2].cursor)
    assert [b.valid_by_source for b in resumed] == [b.valid_by_source for b in batches[3:]]
    for one, other in zip(resumed, batches[3:], strict=True):
        for mine, its in zip(one.micro_batches, other.micro_batches, strict=True):
            assert torch.equal(mine.targets_T, its.targets_T)


@pytest.mark.parametrize("length", [4, 16])
def test_held_out_rows_score_labelled_targets_only(length: int) -> None:
    masks = [[False, True, True, False] * 2, [False] * 6, [True] * 9]
    source = Labelled(masks)
    found = evaluation_batches(
        source,
        RankReader([source], PAD),
        sequence_length=length,
        micro_batch_tokens=2 * length,
        max_tokens=1_000,
    )
    scored = sum(int((packed.targets_T != IGNORE).sum()) for packed in found)
    assert found.contiguous == (length == 4)
    assert found.valid_tokens == scored == (2 * 2 + 2 * 3 if length == 4 else 4 + 8)
    assert found.num_rows == (4 if length == 4 else 2), "the six tokens without labels are left out"


def test_held_out_rows_without_any_label_are_rows_all_the_same() -> None:
    rows, contiguous = evaluation_rows(Labelled([[False] * 9, [False] * 4]), 4, 1_000)
    assert contiguous
    assert [(span.document, span.start, span.valid) for (span,) in rows][-1] == (0, 4, 0)
    assert len(rows) == 3


def test_a_mask_that_contradicts_its_count_is_noticed_when_the_piece_is_read() -> None:
    class Wrong(Labelled):
        def count_labels(self, document: int, start: int, length: int) -> int:
            return super().count_labels(document, start, length) - 1

    sources = [Wrong([[True] * 6])]
    rows = BatchPlanner(sources, seed=0, look_ahead=1).plan(BatchShape(4, 8, 8, (1.0,)))
    with pytest.raises(AssertionError, match="3 labels in Span"):
        assemble(rows, 4, readers=sources, pad_id=PAD)
