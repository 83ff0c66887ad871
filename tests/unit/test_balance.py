"""The busiest rank is near the mean wherever a dealing so good exists, against every dealing there is."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.documents import Documents
from model.reach import Reach
from parallel.config import SequenceLayout
from parallel.sequence.balance import (
    GOAL,
    MAX_CHUNKS,
    MIN_CHUNK_TOKENS,
    chunk_counts,
    deal_balanced,
)
from parallel.sequence.chunk_costs import StreamCosts
from parallel.sequence.chunk_search import _fewer_keys, busiest, level
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal
from parallel.sequence.plan import plan_keys
from rank_work import attention_work, keys_received
from tests.layer_kinds import reaches

HYBRID = {Reach(4096): 24, Reach(): 8}
# (ranks, chunks a rank): at most 12 chunks, so that every dealing can be tried.
SMALL = [(2, 2), (2, 4), (2, 6), (3, 2), (3, 3), (3, 4), (4, 1), (4, 2), (4, 3)]


def visible_pairs(dealing: Dealing, lengths: Sequence[int], reach: Reach) -> list[int]:
    """Pairs of each rank counted in the dense mask."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    query, key = np.indices((len(document), len(document)))
    seen = (document[query] == document[key]) & (key <= query)
    if reach.window is not None:
        seen &= key > query - reach.window
    if reach.chunk is not None:
        place = np.concatenate([np.arange(length) for length in lengths])
        seen &= place[query] // reach.chunk == place[key] // reach.chunk
    pairs = seen.sum(axis=1)
    return [
        sum(int(pairs[held.start : held.stop].sum()) for held in dealing.ranges(rank))
        for rank in range(dealing.size)
    ]


def all_dealings(chunks: Sequence[int], count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to deal the chunks in hands of `count`."""
    if not chunks:
        yield ()
        return
    first, *rest = chunks
    for others in combinations(rest, count - 1):
        left = [chunk for chunk in rest if chunk not in others]
        for hands in all_dealings(left, count):
            yield ((first, *others), *hands)


def over_mean(work: Sequence[int]) -> Fraction:
    """Busiest over mean, exactly."""
    return Fraction(max(work) * len(work), sum(work))


def documents(num_tokens: int, cuts: set[int]) -> tuple[int, ...]:
    """Lengths of a stream cut at these places, whatever lies outside it ignored."""
    bounds = [0, *sorted(cut for cut in cuts if 0 < cut < num_tokens), num_tokens]
    return tuple(b - a for a, b in pairwise(bounds))


def mix(seed: int, num_tokens: int, mean: float, spread: float) -> tuple[int, ...]:
    """Log-normal document lengths that fill a stream; the last one is cut."""
    lengths = (
        np.random.default_rng(seed).lognormal(np.log(mean), spread, num_tokens).astype(int) + 1
    )
    ends = np.minimum(np.cumsum(lengths), num_tokens)
    ends = ends[: int(np.searchsorted(ends, num_tokens)) + 1]
    return tuple(np.diff(ends, prepend=0).tolist())


def join_up(longest: int, others: Sequence[int]) -> tuple[int, ...]:
    """One long document in front of the others, at the same total."""
    total, lengths, left = sum(others), [longest], sum(others) - longest
    for length in others:
        if left:
            lengths.append(min(length, left))
            left -= lengths[-1]
    assert sum(lengths) == total
    return tuple(lengths)


@pytest.mark.parametrize("layout", get_args(SequenceLayout))
@given(
    cuts=st.sets(st.integers(1, 71), max_size=9),
    layers=st.dictionaries(reaches(80), st.integers(1, 5), min_size=1),
)
@settings(deadline=None, max_examples=60)
def test_work_and_keys_are_those_of_the_mask_and_of_the_plans(
    layout: str, cuts: set[int], layers: dict[Reach, int]
) -> None:
    lengths = documents(72, cuts)
    dealing = deal(layout, lengths, 3, layers)
    work, keys = np.zeros(3, dtype=int), np.zeros(3, dtype=int)
    for reach, number in layers.items():
        work += number * np.array(visible_pairs(dealing, lengths, reach))
        plan = plan_keys(dealing, Documents.of(lengths), reach)
        keys += number * np.array([plan.tokens_received(rank) for rank in range(3)])
    assert attention_work(dealing, lengths, layers) == tuple(work)
    assert keys_received(dealing, lengths, layers) == tuple(keys)


@given(
    shape=st.sampled_from(SMALL),
    width=st.integers(1, 5),
    cuts=st.sets(st.integers(1, 60), max_size=9),
    layers=st.dictionaries(reaches(30), st.integers(1, 3), min_size=1),
)
@settings(deadline=None, max_examples=150)
def test_no_dealing_at_all_is_better_when_ours_misses_the_goal(
    shape: tuple[int, int], width: int, cuts: set[int], layers: dict[Reach, int]
) -> None:
    size, most = shape
    num_tokens = size * most * width
    lengths = documents(num_tokens, cuts)
    ours = attention_work(deal_balanced(lengths, size, layers), lengths, layers)
    if over_mean(ours) <= GOAL:
        return
    for count in chunk_counts(num_tokens, size):
        if size * count <= 12:
            chunk_work = StreamCosts(lengths, layers).cut(size * count).work.tolist()
            for hands in all_dealings(range(size * count), count):
                assert max(sum(chunk_work[c] for c in hand) for hand in hands) >= max(ours)


def test_a_dealing_that_swaps_do_not_find_is_found_by_search() -> None:
    """Nine chunks of one document on three ranks: level are the rows of a magic square, and no swap leads there."""
    costs = StreamCosts((27,), {Reach(): 1}).cut(9)
    assert costs.work.tolist() == [6, 15, 24, 33, 42, 51, 60, 69, 78]
    goal = int(GOAL * 126)
    assert busiest(costs, level(costs, 3, goal)) > goal
    work = attention_work(deal_balanced((27,), 3, {Reach(): 1}), (27,), {Reach(): 1})
    assert over_mean(work) <= GOAL


@pytest.mark.parametrize("layers", [HYBRID, {Reach(): 1}, {Reach(512): 3, Reach(): 1}])
@pytest.mark.parametrize("size", [4, 8, 16, 64])
def test_the_goal_is_reached_on_long_streams_of_every_kind(
    size: int, layers: dict[Reach, int]
) -> None:
    num_tokens = 1 << 17
    short = mix(0, num_tokens, 900, 0.3)
    for lengths in (
        (num_tokens,),
        short,
        join_up(num_tokens // 2, short),
        join_up(16_384, short),
        mix(1, num_tokens, 2_000, 1.5),
        mix(2, num_tokens, 100, 0.5),
    ):
        dealing = deal_balanced(lengths, size, layers)
        assert over_mean(attention_work(dealing, lengths, layers)) <= GOAL
        assert len(dealing.chunks[0]) <= MAX_CHUNKS
        assert dealing.chunk_tokens >= MIN_CHUNK_TOKENS


def test_short_documents_stay_in_one_piece_a_rank() -> None:
    lengths = mix(0, 1 << 16, 100, 0.2)
    assert deal_balanced(lengths, 8, HYBRID) == deal("contiguous", lengths, 8, HYBRID)


def test_one_long_document_is_dealt_as_zigzag() -> None:
    for size in (2, 4, 64):
        one = (1 << 17,)
        assert deal_balanced(one, size, {Reach(): 1}) == deal("zigzag", one, size, {Reach(): 1})


def test_no_fewer_chunks_would_do() -> None:
    """With fewer, the rank of the heaviest chunk has too much even if its others are the lightest."""
    lengths = join_up(16_384, mix(0, 1 << 17, 900, 0.3))
    dealing = deal_balanced(lengths, 8, HYBRID)
    mean = Fraction(sum(attention_work(dealing, lengths, HYBRID)), 8)
    for count in chunk_counts(1 << 17, 8):
        if count < len(dealing.chunks[0]):
            work = np.sort(StreamCosts(lengths, HYBRID).cut(8 * count).work)
            assert work[-1] + work[: count - 1].sum() > GOAL * mean


def test_neighbours_share_a_rank_where_that_costs_no_balance() -> None:
    """Half a stream of short documents: their chunks come in runs, and fewer keys travel than without regard."""
    lengths = join_up(1 << 16, mix(0, 1 << 17, 3_000, 0.5))
    dealing = deal_balanced(lengths, 4, HYBRID)
    count = len(dealing.chunks[0])
    apart = Dealing(
        dealing.chunk_tokens, tuple(tuple(range(rank, 4 * count, 4)) for rank in range(4))
    )
    assert sum(keys_received(dealing, lengths, HYBRID)) < sum(keys_received(apart, lengths, HYBRID))
    assert any(len(dealing.ranges(rank)) < count for rank in range(4))


@given(seed=st.integers(0, 2**32), window=st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_the_gain_of_a_swap_is_the_difference_of_the_whole_sums(seed: int, window: int) -> None:
    random = np.random.default_rng(seed)
    lengths = documents(96, set(random.integers(1, 96, 5).tolist()))
    costs = StreamCosts(lengths, {Reach(window): 2, Reach(): 1}).cut(12)
    held = np.sort(random.permutation(12).reshape(3, 4), axis=1)
    pairs = [(a, b) for x in range(3) for y in range(3) if x != y for a in held[x] for b in held[y]]
    coming, going = np.array(pairs).T
    gains = _fewer_keys(costs, held, coming, going)
    for (a, b), gain in zip(pairs, gains.tolist(), strict=True):
        swapped = np.where(held == a, b, np.where(held == b, a, held))
        after = costs.keys(np.sort(swapped, axis=1)).sum()
        assert gain == costs.keys(held).sum() - after


def test_the_same_lengths_give_the_same_dealing_whatever_their_type() -> None:
    lengths = mix(3, 1 << 16, 2_000, 1.5)
    first = deal_balanced(lengths, 8, HYBRID)
    assert deal_balanced(list(lengths), 8, HYBRID) == first
    assert deal_balanced(lengths, 8, dict(reversed(HYBRID.items()))) == first


def test_an_empty_document_changes_nothing() -> None:
    assert deal_balanced((0, 30, 0, 2, 0), 4, HYBRID) == deal_balanced((30, 2), 4, HYBRID)


@pytest.mark.parametrize(
    ("local", "counts"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (12, (1, 2, 3, 4)),
        (7, (1, 7)),
        (131 * 3, (1, 3)),
        (1024, (1, 2, 4, 8)),
        (1536, (1, 2, 3, 4, 6, 8, 12)),
        (1 << 20, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_chunks_are_equal_few_and_not_too_short(local: int, counts: tuple[int, ...]) -> None:
    assert chunk_counts(4 * local, 4) == counts
