"""Every token of every document exactly once per epoch, whatever the shapes; rows never overflow."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import PackingMethod
from data.labels import EveryTarget
from data.packing.planner import AHEAD_ROWS, BatchPlanner
from data.packing.span_pool import SpanPool
from data.packing.spans import BatchShape, Span


class Lengths(EveryTarget):
    """Documents of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)
        self.num_documents = len(lengths)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return self.lengths[documents]


HOSTILE = [
    Lengths([1, 1, 1, 5000, 2, 64, 63, 65, 128, 0, 7]),
    Lengths([33] * 40),
    Lengths([1]),
]


def _shape(sequence_length: int, rows: int, weights: tuple[float, ...]) -> BatchShape:
    return BatchShape(sequence_length, sequence_length * rows, sequence_length, weights)


def _pending(state: dict[str, Any]) -> set[tuple[int, int, int]]:
    """(source, document, epoch) of every span that waits in the look-ahead."""
    return {(s, span[1], span[4]) for s, pool in enumerate(state["pools"]) for span in pool}


def _walk(spans: Iterator[Span], sources: list[Lengths]) -> Counter[tuple[int, int, int]]:
    """Check each epoch of each document against its tokens; counts (source, document, epoch)."""
    pieces: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for span in spans:
        assert span.length > 0
        key = (span.source, span.document, span.epoch)
        pieces.setdefault(key, []).append((span.start, span.length))
    tokens: Counter[tuple[int, int, int]] = Counter()
    for (source, document, epoch), parts in pieces.items():
        # Cut from the front, in order: no token twice, none left out in between.
        at = 0
        for start, length in parts:
            assert start == at
            at += length
        assert at <= sources[source].lengths[document]
        tokens[source, document, epoch] = at
    return tokens


@pytest.mark.parametrize("method", get_args(PackingMethod))
@pytest.mark.parametrize("look_ahead", [1, 3, 64])
def test_each_token_once_per_epoch_under_changing_lengths_and_weights(
    method: str, look_ahead: int
) -> None:
    planner = BatchPlanner(HOSTILE, seed=1, method=method, look_ahead=look_ahead)
    spans: list[Span] = []
    for step in range(300):
        length = (64, 16, 256, 1000, 3)[step // 60]
        weights = ((1.0, 1.0, 0.01), (0.2, 3.0, 0.0))[step // 100 % 2]
        for row in planner.plan(_shape(length, 1 + step % 4, weights)):
            assert 0 < sum(span.length for span in row) <= length
            spans += row
    tokens = _walk(iter(spans), HOSTILE)
    pending = _pending(planner.state_dict())
    for source, documents in enumerate(HOSTILE[:2]):
        last = max(epoch for s, _, epoch in tokens if s == source)
        assert last >= 1
        for epoch in range(last):
            for document in range(documents.num_documents):
                if documents.lengths[document] and (source, document, epoch) not in pending:
                    assert tokens[source, document, epoch] == documents.lengths[document]


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=30),
    sequence_lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    look_ahead=st.integers(1, 40),
    method=st.sampled_from(get_args(PackingMethod)),
)
def test_used_plus_pending_is_what_was_drawn(
    lengths: list[int], sequence_lengths: list[int], look_ahead: int, method: str
) -> None:
    source = Lengths(lengths)
    planner = BatchPlanner([source], seed=5, method=method, look_ahead=look_ahead)
    used: Counter[tuple[int, int, int]] = Counter()
    for sequence_length in sequence_lengths:
        for row in planner.plan(_shape(sequence_length, 7, (1.0,))):
            for span in row:
                for offset in range(span.start, span.start + span.length):
                    used[span.epoch, span.document, offset] += 1
    state = planner.state_dict()
    for _, document, start, length, epoch in state["pools"][0]:
        for offset in range(start, start + length):
            used[epoch, document, offset] += 1
    assert set(used.values()) <= {1}
    per_document = Counter((epoch, document) for epoch, document, _ in used)
    assert sum(1 for _ in per_document) == state["drawn"][0]
    assert all(count == lengths[document] for (_, document), count in per_document.items())


@pytest.mark.parametrize("method", get_args(PackingMethod))
def test_state_is_json_and_continues_exactly(method: str) -> None:
    planner = BatchPlanner(HOSTILE, seed=2, method=method, look_ahead=20)
    weights = (0.5, 0.3, 0.2)
    for _ in range(20):
        planner.plan(_shape(50, 3, weights))
    text = json.dumps(planner.state_dict())
    other = BatchPlanner(HOSTILE, seed=2, method=method, look_ahead=20)
    other.load_state_dict(json.loads(text))
    for length in (50, 700, 11):
        shape = _shape(length, 4, weights)
        assert planner.plan(shape) == other.plan(shape)
    assert planner.state_dict() == other.state_dict()


def test_packing_and_look_ahead_may_change_on_resume_without_losing_a_token() -> None:
    source = [Lengths([37, 400, 5, 90, 1, 1, 250])]
    state = None
    spans: list[Span] = []
    for method, look_ahead in (("best_fit", 30), ("concat", 5), ("best_fit", 2), ("best_fit", 9)):
        planner = BatchPlanner(source, seed=0, method=method, look_ahead=look_ahead)
        if state is not None:
            planner.load_state_dict(state)
        for row in planner.plan(_shape(64, 40, (1.0,))):
            spans += row
        state = json.loads(json.dumps(planner.state_dict()))
    tokens = _walk(iter(spans), source)
    assert state is not None
    complete = {key for key, n in tokens.items() if n == source[0].lengths[key[1]]}
    assert set(tokens) <= complete | _pending(state)


def test_a_cursor_of_another_corpus_or_seed_is_refused() -> None:
    state = BatchPlanner([Lengths([1, 2])], seed=0).state_dict()
    for planner, key in (
        (BatchPlanner([Lengths([1, 2])], seed=1), "seed"),
        (BatchPlanner([Lengths([1, 2, 3])], seed=0), "num_documents"),
        (BatchPlanner([Lengths([1, 2]), Lengths([1])], seed=0), "num_documents"),
    ):
        with pytest.raises(ValueError, match=f"cursor.{key}=.*resume with the same"):
            planner.load_state_dict(state)


def test_concat_leaves_no_padding_and_keeps_documents_whole_where_rows_allow() -> None:
    source = [Lengths([30, 50, 20])]
    planner = BatchPlanner(source, seed=0, method="concat")
    rows = planner.plan(_shape(40, 5, (1.0,)))
    assert [sum(span.length for span in row) for row in rows] == [40] * 5
    flat = [span for row in rows for span in row]
    joined = [(s.epoch, s.document) for n, s in enumerate(flat) if s.start == 0 or n == 0]
    assert len(joined) == 6
    assert sorted(joined[:3]) == [(0, 0), (0, 1), (0, 2)]


def test_best_fit_fills_with_the_largest_that_fits() -> None:
    # Four documents in the pool at once: 60 + 40 and 70 + 30 fill their rows exactly.
    planner = BatchPlanner([Lengths([60, 40, 70, 30])], seed=0, look_ahead=4)
    rows = planner.plan(_shape(100, 2, (1.0,)))
    for row in rows:
        assert sum(span.length for span in row) == 100
        assert all(span.start == 0 for span in row)


def test_padding_is_below_one_percent_on_a_heavy_tail() -> None:
    random = np.random.default_rng(0)
    source = Lengths(np.maximum(1, random.lognormal(7.0, 1.6, 3000)).astype(int).tolist())
    for length in (256, 1024, 8192):
        planner = BatchPlanner([source], seed=0)
        rows = planner.plan(_shape(length, 2**20 // length, (1.0,)))
        used = sum(span.length for row in rows for span in row)
        assert used / 2**20 > 0.99


def test_a_giant_document_is_spent_at_the_rate_of_its_tokens() -> None:
    # A tenth of all tokens is one document: it may not fill many rows in succession.
    source = Lengths([100_000] + [900] * 1000)
    planner = BatchPlanner([source], seed=0, look_ahead=1001)
    rows = planner.plan(_shape(1000, 900, (1.0,)))
    of_giant = [any(span.document == 0 for span in row) for row in rows]
    longest = max(len(run) for run in "".join("g" if g else " " for g in of_giant).split())
    first_half = sum(of_giant[:450])
    assert longest <= 12
    assert 15 <= first_half <= 85


MIXED = [
    Lengths([10] * 500),
    Lengths([1, 400, 30, 5_000]),
    Lengths([1000] * 50),
]


@pytest.mark.parametrize("method", get_args(PackingMethod))
def test_tokens_placed_track_the_weights_of_each_stage_from_its_first_rows(method: str) -> None:
    planner = BatchPlanner(MIXED, seed=0, method=method, look_ahead=50)
    length = 100
    longest = 5_000 if method == "concat" else length
    for weights in ((0.5, 0.2, 0.3), (0.0, 0.0, 1.0), (0.01, 0.98, 0.01), (0.8, 0.2, 0.0)):
        placed = [0, 0, 0]
        for _ in range(40):
            for row in planner.plan(_shape(length, 5, weights)):
                for span in row:
                    placed[span.source] += span.length
            for tokens, weight in zip(placed, weights, strict=True):
                assert abs(tokens - weight * sum(placed)) <= longest + AHEAD_ROWS * length
                assert weight or not tokens


def test_rows_depend_on_the_seed_only_where_they_may() -> None:
    sources = [Lengths(list(range(1, 200)))]
    shape = _shape(128, 50, (1.0,))
    first, again = (BatchPlanner(sources, seed=4).plan(shape) for _ in range(2))
    assert first == again
    assert first != BatchPlanner(sources, seed=5).plan(shape)
    # The same rows, however they are grouped into batches.
    planner = BatchPlanner(sources, seed=4)
    assert [row for _ in range(10) for row in planner.plan(_shape(128, 5, (1.0,)))] == first


def test_mistakes_are_named() -> None:
    for changes, message in (({"method": "worst"}, "packing=worst"), ({"look_ahead": 0}, "=0")):
        with pytest.raises(ValueError, match=message):
            BatchPlanner([Lengths([1])], seed=0, **changes)  # type: ignore[arg-type]
    for weights in ((0.0,), (1.0, 1.0), ()):
        with pytest.raises(ValueError, match="need one per source"):
            BatchPlanner([Lengths([1])], seed=0).plan(_shape(8, 1, weights))


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.data())
def test_the_pool_agrees_with_a_plain_list(data: st.DataObject) -> None:
    pool = SpanPool(12)
    plain: list[tuple[int, Span]] = []
    serial = 0
    for _ in range(60):
        kinds = ["add"] * (len(plain) < 12) + ["weighted", "largest", "smallest", "longest"] * bool(
            plain
        )
        kind = data.draw(st.sampled_from(kinds))
        taken: tuple[int, Span] | None
        if kind == "add":
            entry = (serial, Span(0, serial, 0, data.draw(st.integers(1, 6)), 0))
            serial += 1
            pool.add(*entry)
            plain.append(entry)
            continue
        if kind == "weighted":
            draw = data.draw(st.integers(0, 2**64 - 1))
            at = draw * sum(span.length for _, span in plain) >> 64
            expected = next(
                entry
                for n, entry in enumerate(plain)
                if sum(span.length for _, span in plain[: n + 1]) > at
            )
            taken = pool.take_weighted(draw)
        else:
            bound = 6 if kind == "longest" else data.draw(st.integers(1, 6))
            fitting = [
                entry
                for entry in plain
                if (entry[1].length >= bound if kind == "smallest" else entry[1].length <= bound)
            ]
            sign = -1 if kind == "smallest" else 1
            if kind == "longest":
                taken = pool.take_longest()
            else:
                taken = (pool.take_largest if kind == "largest" else pool.take_smallest)(bound)
            if not fitting:
                assert taken is None
                continue
            expected = max(fitting, key=lambda entry: (sign * entry[1].length, -entry[0]))
        assert taken == expected
        slot = plain.index(expected)
        plain[slot] = plain[-1]
        plain.pop()
        assert pool.entries() == plain
        assert pool.total == sum(span.length for _, span in plain)
