"""Which keys travel, and which calls attend them: exactly what the dense mask says, for any dealing."""

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention.dense import visible_TS
from model.documents import Documents
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal_contiguous, deal_zigzag
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.plan import plan_keys
from parallel.sequence.route import Own, route
from tests.layer_kinds import reaches


@st.composite
def dealings(draw):
    size, held, width = (draw(st.integers(1, most)) for most in (4, 3, 5))
    order = draw(st.permutations(range(size * held)))
    chunks = tuple(tuple(sorted(order[r * held : (r + 1) * held])) for r in range(size))
    return Dealing(width, chunks)


@st.composite
def streams(draw):
    """A dealing, document lengths that fill it, and a reach."""
    dealing = draw(dealings())
    total = dealing.num_tokens
    borders = draw(st.sets(st.integers(1, total - 1), max_size=6)) if total > 1 else set()
    ends = [0, *sorted(borders), total]
    lengths = [b - a for a, b in pairwise(ends)]
    return dealing, lengths, draw(reaches(total + 2))


def positions(dealing, rank):
    return [p for chunk in dealing.chunks[rank] for p in dealing.chunk_range(chunk)]


@settings(max_examples=300, deadline=None)
@given(streams())
def test_a_rank_receives_exactly_the_foreign_keys_its_queries_attend(case):
    dealing, lengths, reach = case
    plan = plan_keys(dealing, Documents.of(lengths), reach)
    seen = visible_TS(PackedLayout.from_lengths(lengths), reach)
    for rank in range(dealing.size):
        own = positions(dealing, rank)
        attended = set(seen[own].any(dim=0).nonzero().flatten().tolist()) - set(own)
        for source in range(dealing.size):
            pieces = plan.receives[rank][source]
            received = [p for piece in pieces for p in piece]
            assert received == sorted(attended & set(positions(dealing, source)))
        assert plan.tokens_received(rank) == len(attended)


def pairs(call, queries, keys):
    """(query, key) stream positions of every pair a call computes; one entry a pair."""
    segments = call.segments
    starts = zip(
        accumulate([call.queries.start, *segments.query_lengths]),
        accumulate([call.keys.start, *segments.key_lengths]),
        strict=True,
    )
    lengths = zip(segments.query_lengths, segments.key_lengths, strict=True)
    for (query, key), (n, m) in zip(starts, lengths, strict=False):
        for i in range(n):
            own = m - n + i
            stop = own + 1 if segments.causal else m
            first = 0 if segments.window is None else max(0, own - segments.window + 1)
            for j in range(first, stop):
                yield queries[query + i], keys[key + j]


def came(dealing, routes, rank):
    """Stream positions of what the exchange brings to `rank`, in order of arrival."""
    found = []
    for source in range(dealing.size):
        exchange = routes[source].exchange
        own = positions(dealing, source)
        rows = [own[row] for piece in exchange.send for row in piece]
        first = sum(exchange.send_rows[:rank])
        found += rows[first : first + exchange.send_rows[rank]]
        assert exchange.send_rows[rank] == routes[rank].exchange.receive_rows[source]
    return found


def all_pairs(dealing, routes, rank):
    """Every pair the rank computes, over all its calls, with the keys its peers send it."""
    own, mine = positions(dealing, rank), routes[rank]
    for call in mine.local:
        yield from pairs(call, own, own)
    if mine.exchange:
        arrived = came(dealing, routes, rank)
        keys = [
            (arrived if on_wire else own)[row]
            for on_wire, rows in mine.exchange.assembly
            for row in rows
        ]
        for call in mine.exchange.calls:
            yield from pairs(call, own, keys)
    for index, step in enumerate(mine.steps):
        source = (rank - step.distance) % dealing.size
        sent = routes[source].steps[index]
        assert sent.distance == step.distance
        theirs = positions(dealing, source)
        keys = [theirs[row] for piece in sent.send for row in piece]
        assert len(keys) == step.receive_rows
        for call in step.calls:
            yield from pairs(call, own, keys)


@settings(max_examples=300, deadline=None)
@given(streams(), st.sampled_from(["auto", "ring", "exchange"]))
def test_calls_compute_every_visible_pair_once_and_no_other(case, transport):
    dealing, lengths, reach = case
    routes = [
        route(Own(dealing, Documents.of(lengths), r), reach, transport) for r in range(dealing.size)
    ]
    seen = visible_TS(PackedLayout.from_lengths(lengths), reach)
    for rank in range(dealing.size):
        computed = torch.zeros(seen.shape, dtype=torch.int64)
        for query, key in all_pairs(dealing, routes, rank):
            computed[query, key] += 1
        own = positions(dealing, rank)
        assert torch.equal(computed[own], seen[own].long())
        assert computed.sum() == computed[own].sum()


@settings(max_examples=100, deadline=None)
@given(streams())
def test_a_share_holds_the_positions_of_its_own_tokens(case):
    dealing, lengths, reach = case
    whole = PackedLayout.from_lengths(lengths)
    for rank in range(dealing.size):
        share = build_share(dealing, Documents.of(lengths), rank, {"full": Reach(), "some": reach})
        layout = ShardedLayout.from_share(share)
        own = positions(dealing, rank)
        assert [p for held in share.ranges for p in held] == own
        assert layout.positions_T.tolist() == whole.positions_T[own].tolist()
        assert layout.cu_seqlens.tolist() == whole.cu_seqlens.tolist()
        assert (layout.max_seqlen, layout.lengths) == (whole.max_seqlen, whole.lengths)
        assert layout.local_tokens == len(own)


def test_all_ranks_agree_on_how_full_layers_get_their_keys():
    """One long document in a ring, short ones in one exchange, none beyond a chunk without a word."""
    for lengths, steps, exchanges in (
        ([96], 3, False),
        ([5] * 19 + [1], 0, True),
        ([24] * 4, 0, False),
    ):
        dealing = deal_contiguous(96, 4)
        routes = [
            route(Own(dealing, Documents.of(lengths), rank), Reach(), "auto") for rank in range(4)
        ]
        assert {len(found.steps) for found in routes} == {steps}
        assert {found.exchange is not None for found in routes} == {exchanges}


def test_steps_in_which_nobody_sends_are_left_out():
    """Documents that reach over one border only: one step instead of three."""
    dealing = deal_contiguous(96, 4)
    routes = [
        route(Own(dealing, Documents.of([12, 24, 24, 24, 12]), rank), Reach(), "ring")
        for rank in range(4)
    ]
    assert [[step.distance for step in found.steps] for found in routes] == [[1]] * 4


def test_two_chunks_of_a_document_share_one_rectangle():
    """Zigzag: both chunks of rank 1 see all of chunk 0, and only the second sees chunk 7."""
    found = route(Own(deal_zigzag(32, 4), Documents.of([32]), 1), Reach(), "ring")
    first, second, third = found.steps
    assert [(c.queries, c.keys) for c in first.calls] == [(range(0, 8), range(0, 4))]
    assert [(c.queries, c.keys) for c in second.calls] == [(range(4, 8), range(0, 8))]
    assert third.distance == 3
    assert len(found.local) == 1


def test_neighbouring_chunks_of_one_rank_need_no_bytes_between_them():
    dealing = Dealing(4, ((0, 1), (2, 3)))
    joined = plan_keys(dealing, Documents.of([16]), Reach(3))
    assert joined.receives[1] == ((range(6, 8),), ())
    calls = route(Own(dealing, Documents.of([16]), 1), Reach(3), "auto")
    assert [call.queries for call in calls.exchange.calls] == [range(0, 2)]


def test_documents_must_fill_the_stream():
    with pytest.raises(ValueError, match=r"9 tokens in all.*hold 8.*pad"):
        build_share(deal_contiguous(8, 2), Documents.of([4, 5]), 0, {"full": Reach()})
