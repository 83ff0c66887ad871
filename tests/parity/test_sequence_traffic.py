"""Bytes that really arrived, forward and backward, equal what the dense mask says must travel, to the byte.

Forward: a rank receives key and value, once, of every token on another rank that some query of its own attends.

    received  x 2 x G x K x itemsize                     received: such tokens of other ranks

Backward: every rank gets back the gradients of key and value of what it gave, from each rank it gave them to,
in float32 (float64 for float64). In ring steps it also receives the forward's keys again, which it did not keep.

    given x 2 x G x K x itemsize of the sum              given: own tokens that another rank attends,
  + received x 2 x G x K x itemsize   (ring steps)              once for each such rank
"""

import itertools
import random
from collections import Counter

import torch

from model.attention.dense import visible_TS
from model.documents import Documents
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.mesh import start
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal_contiguous, deal_zigzag
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.ring import RingCore
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.window import WindowCore
from parallel.topology import Topology
from ranks import run_on_ranks
from tests.layer_kinds import kind_of

SIZE, TOKENS, KEY_HEADS, HEAD_DIM = 4, 96, 2, 4
REACHES = (*map(Reach, (1, 2, 7, 24, 40, 200)), Reach(5, 17), Reach(None, 17), Reach(None, 40))


def random_case(seed):
    """A dealing of some kind and documents of very different lengths."""
    draw = random.Random(seed)
    chunks = draw.sample(range(3 * SIZE), 3 * SIZE)
    dealing = draw.choice(
        [
            deal_contiguous(TOKENS, SIZE),
            deal_zigzag(TOKENS, SIZE),
            Dealing(
                TOKENS // len(chunks), tuple(tuple(sorted(chunks[r::SIZE])) for r in range(SIZE))
            ),
        ]
    )
    borders = sorted(draw.sample(range(1, TOKENS), draw.choice([0, 1, 3, 8, 30])))
    ends = [0, *borders, TOKENS]
    return dealing, [b - a for a, b in itertools.pairwise(ends)]


def attended(dealing, lengths, reach):
    """counts[rank][source]: tokens of `source` that some query of `rank` attends."""
    seen = visible_TS(PackedLayout.from_lengths(lengths), reach)
    held = [
        torch.tensor([p for chunk in chunks for p in dealing.chunk_range(chunk)])
        for chunks in dealing.chunks
    ]
    return [
        [
            int(seen[queries][:, keys].any(dim=0).sum()) if rank != source else 0
            for source, keys in enumerate(held)
        ]
        for rank, queries in enumerate(held)
    ]


def expected_bytes(counts, rank, steps, dtype):
    """Forward and backward, by the rule above."""
    token = 2 * KEY_HEADS * HEAD_DIM
    received = sum(counts[rank]) * token * dtype.itemsize
    given = sum(row[rank] for row in counts) * token * max(dtype.itemsize, 4)
    return received, given + (received if steps else 0)


def test_received_bytes_equal_the_count_from_the_dense_mask():
    dtypes = (torch.float64, torch.bfloat16)
    cases = [(*random_case(seed), dtypes[seed % 2]) for seed in range(12)]

    def work(rank, world_size):
        mesh = start(torch.device("cpu"), 60, Topology(sequence=SIZE))
        meter = TrafficMeter()
        ring, windowed = (
            RingCore("full", mesh.sequence, meter),
            WindowCore("window", mesh.window, meter),
        )
        used = set()
        for dealing, lengths, dtype in cases:
            layers = [(Reach(), t) for t in ("auto", "ring", "exchange")]
            for reach, transport in [*layers, *((reach, "auto") for reach in REACHES)]:
                share = build_share(
                    dealing, Documents.of(lengths), rank, {kind_of(reach): reach}, transport
                )
                layout = ShardedLayout.from_share(share)
                q, k, v = (
                    torch.randn(TOKENS // SIZE, n, HEAD_DIM, dtype=dtype).requires_grad_()
                    for n in (2 * KEY_HEADS, KEY_HEADS, KEY_HEADS)
                )
                core, kind = ring if reach.window is None else windowed, kind_of(reach)
                counts = attended(dealing, lengths, reach)
                steps = layout.routes[kind_of(reach)].steps
                forward, backward = expected_bytes(counts, rank, steps, dtype)
                meter.reset()
                out = core(q, k, v, layout, reach)
                assert meter.bytes == Counter({(kind, "forward"): forward})
                out.sum().backward()
                assert meter.bytes == Counter(
                    {(kind, "forward"): forward, (kind, "backward"): backward}
                )
                assert meter.of(kind) == forward + backward
                assert meter.total == forward + backward
                used.add((reach, len(steps) > 0, forward > 0))
        return used

    used = set().union(*run_on_ranks(work, SIZE))
    # Full layers and chunks both ways, and windows, with something to move; window 1 never has.
    assert {(Reach(), True, True), (Reach(), False, True), (Reach(7), False, True)} <= used
    assert {(Reach(chunk=40), True, True), (Reach(chunk=40), False, True)} <= used
    assert (Reach(1), False, True) not in used


def test_nothing_to_move_starts_no_collective():
    """Documents that end where shards do: no rank calls the network."""

    def work(rank, world_size):
        mesh = start(torch.device("cpu"), 60, Topology(sequence=SIZE))
        dealing = deal_contiguous(TOKENS, SIZE)
        layout = ShardedLayout.from_share(
            build_share(
                dealing, Documents.of([24] * 4), rank, {"full": Reach(), "window": Reach(9)}
            )
        )
        for reach, core in (
            (Reach(), RingCore("full", mesh.sequence)),
            (Reach(9), WindowCore("window", mesh.window)),
        ):
            core.wire = None
            q = torch.randn(24, 2, HEAD_DIM, requires_grad=True)
            core(q, q, q, layout, reach).sum().backward()
        return True

    assert all(run_on_ranks(work, SIZE))
