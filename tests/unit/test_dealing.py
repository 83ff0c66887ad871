"""Every token is dealt to one rank, equally many to each, and plans name exactly the keys a mask asks for."""

from itertools import accumulate, chain, pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.documents import Documents
from model.reach import Reach
from parallel.config import SequenceLayout
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal, deal_zigzag, dealing_problem
from parallel.sequence.plan import keys_before, plan_keys
from tests.layer_kinds import reaches

LAYERS = {Reach(3): 3, Reach(): 1}


@st.composite
def streams(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    """Document lengths whose sum two chunks a rank divide, and a number of ranks."""
    size = draw(st.integers(1, 5))
    num_tokens = 2 * size * draw(st.integers(1, 8))
    cuts = draw(st.sets(st.integers(1, num_tokens - 1), max_size=8))
    bounds = [0, *sorted(cuts), num_tokens]
    return tuple(b - a for a, b in pairwise(bounds)), size


def visible(lengths: tuple[int, ...], reach: Reach) -> np.ndarray:
    """The dense mask (queries, keys), from the definition."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    query, key = np.indices((len(document), len(document)))
    seen = (document[query] == document[key]) & (key <= query)
    if reach.window is not None:
        seen &= key > query - reach.window
    if reach.chunk is not None:
        place = np.concatenate([np.arange(length) for length in lengths])
        seen &= place[query] // reach.chunk == place[key] // reach.chunk
    return seen


def owners(dealing: Dealing) -> np.ndarray:
    """The rank that holds each token."""
    owner = np.full(dealing.num_tokens, -1)
    for rank in range(dealing.size):
        for held in dealing.ranges(rank):
            assert (owner[held.start : held.stop] == -1).all(), "dealt twice"
            owner[held.start : held.stop] = rank
    return owner


@pytest.mark.parametrize("layout", get_args(SequenceLayout))
@given(stream=streams())
@settings(deadline=None, max_examples=60)
def test_every_token_is_held_once_and_ranks_hold_equally_many(
    layout: str, stream: tuple[tuple[int, ...], int]
) -> None:
    lengths, size = stream
    dealing = deal(layout, lengths, size, LAYERS)
    assert dealing.num_tokens == sum(lengths)
    assert np.bincount(owners(dealing), minlength=size).tolist() == [dealing.local_tokens] * size
    assert all(list(held) == sorted(held) for held in dealing.chunks)


@pytest.mark.parametrize("layout", get_args(SequenceLayout))
@given(stream=streams(), reach=reaches(90))
@settings(deadline=None, max_examples=80)
def test_a_plan_receives_exactly_the_keys_on_other_ranks_that_a_local_query_attends(
    layout: str, stream: tuple[tuple[int, ...], int], reach: Reach
) -> None:
    lengths, size = stream
    dealing = deal(layout, lengths, size, {reach: 1})
    plan, owner = plan_keys(dealing, Documents.of(lengths), reach), owners(dealing)
    mask = visible(lengths, reach)
    for rank in range(size):
        wanted = mask[owner == rank].any(axis=0)
        for source in range(size):
            expected = np.flatnonzero(wanted & (owner == source)).tolist() if source != rank else []
            pieces = plan.receives[rank][source]
            assert [key for piece in pieces for key in piece] == expected


@pytest.mark.parametrize("layout", get_args(SequenceLayout))
@given(stream=streams(), reach=reaches(90))
@settings(deadline=None, max_examples=40)
def test_what_a_chunk_needs_from_before_it_is_one_range(
    layout: str, stream: tuple[tuple[int, ...], int], reach: Reach
) -> None:
    lengths, size = stream
    dealing = deal(layout, lengths, size, {reach: 1})
    starts, mask = [0, *accumulate(reach.cut(lengths))], visible(lengths, reach)
    for chunk in chain.from_iterable(dealing.chunks):
        own = dealing.chunk_range(chunk)
        before = mask[own.start : own.stop, : own.start].any(axis=0)
        assert np.flatnonzero(before).tolist() == list(keys_before(own.start, starts, reach.window))


def test_neighbouring_chunks_are_one_range() -> None:
    dealing = Dealing(4, ((0, 1, 3), (2, 4, 5)))
    assert dealing.ranges(0) == (range(0, 8), range(12, 16))
    assert dealing.ranges(1) == (range(8, 12), range(16, 24))


def test_zigzag_pairs_front_and_back() -> None:
    assert deal_zigzag(32, 4).chunks == ((0, 7), (1, 6), (2, 5), (3, 4))


@pytest.mark.parametrize("layout", get_args(SequenceLayout))
def test_one_rank_holds_everything_in_one_piece(layout: str) -> None:
    dealing = deal(layout, (3, 4), 1, LAYERS)
    assert dealing.chunks == ((0,),)
    assert dealing.ranges(0) == (range(0, 7),)


@pytest.mark.parametrize(
    ("layout", "num_tokens", "size", "said"),
    [
        (
            "zigzag",
            4100,
            4,
            "zigzag: a stream of 4100 tokens must be a multiple of 2 x sequence = 8",
        ),
        ("zigzag", 4100, 4, "use 4096 or 4104"),
        (
            "balanced",
            4098,
            4,
            "balanced: a stream of 4098 tokens must be a multiple of sequence = 4",
        ),
        ("contiguous", 3, 4, "sequence = 4; use 4"),
    ],
)
def test_a_stream_that_cannot_be_dealt_is_refused_with_the_rule_and_a_way_out(
    layout: str, num_tokens: int, size: int, said: str
) -> None:
    assert said in str(dealing_problem(layout, num_tokens, size))
    with pytest.raises(ValueError, match="must be a multiple"):
        deal(layout, (num_tokens,), size, LAYERS)


def test_sizes_that_the_message_proposes_are_accepted() -> None:
    for layout, size in (("zigzag", 3), ("balanced", 7), ("contiguous", 5), ("zigzag", 1)):
        for num_tokens in range(1, 60):
            problem = dealing_problem(layout, num_tokens, size)
            if problem:
                for proposed in problem.rsplit("use ", 1)[1].split(" or "):
                    assert dealing_problem(layout, int(proposed), size) is None
            else:
                dealing = deal(layout, (num_tokens,), size, LAYERS)
                assert dealing.num_tokens == num_tokens
