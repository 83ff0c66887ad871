"""Attention over a stream that is cut among ranks equals dense attention over the whole one, in float64.

Every case of a number of ranks runs in one forked world; the dense oracle is made once, before the fork.
"""

from functools import cache
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from model.attention.dense import DenseCore
from model.documents import Documents
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.mesh import start
from parallel.sequence.chunks import Dealing
from parallel.sequence.dealing import deal_contiguous, deal_zigzag
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.ring import RingCore
from parallel.sequence.window import WindowCore
from parallel.topology import Topology
from ranks import run_on_ranks
from tests.layer_kinds import kind_of

CPU = torch.device("cpu")
TOKENS, HEAD_DIM = 144, 4
STREAMS = {
    "one document": (144,),
    "a document over three ranks": (10, 110, 24),
    "documents of length 1": (1, 1, 1, 60, 1, 1, 50, 1, 28),
    "last ranks inside another's document": (20, 124),
    "padding at the end": (70, 60, 14),
    "borders on borders": (36, 36, 36, 36),
    "all short": (5,) * 28 + (4,),
}
# 1; small; across several chunks; larger than a shard of 2 ranks; larger than the stream.
WINDOWS = (1, 2, 9, 50, 100, 300)
HEADS = ((2, 2), (4, 2))
# Kind of layer and how its keys travel.
LAYERS = (
    (Reach(), "ring"),
    (Reach(), "exchange"),
    (Reach(), "auto"),
    *((Reach(window), "auto") for window in WINDOWS),
    (Reach(chunk=50), "ring"),
    (Reach(chunk=50), "exchange"),
    (Reach(chunk=9), "auto"),
    (Reach(window=11, chunk=50), "auto"),
)


def dealings(size):
    """Contiguous, zigzag, and three chunks a rank in an order of no system."""
    order = torch.randperm(3 * size, generator=torch.Generator().manual_seed(size)).tolist()
    scattered = tuple(tuple(sorted(order[r::size])) for r in range(size))
    return {
        "contiguous": deal_contiguous(TOKENS, size),
        "zigzag": deal_zigzag(TOKENS, size),
        "scattered": Dealing(TOKENS // (3 * size), scattered),
    }


def inputs(heads, tokens=TOKENS, dtype=torch.float64):
    """Queries, keys, values and the gradient of the output, of the whole stream."""
    generator = torch.Generator().manual_seed(1)
    widths = (heads[0], heads[1], heads[1], heads[0])
    return [
        torch.randn(tokens, n, HEAD_DIM, generator=generator, dtype=torch.float64).to(dtype)
        for n in widths
    ]


def attend(core, tensors, layout, reach):
    """Output, dq, dk, dv."""
    q, k, v, do = tensors
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    o = core(*leaves, layout, reach)
    return [o.detach(), *torch.autograd.grad(o, leaves, do)]


@cache
def oracle(lengths, reach, heads):
    return attend(DenseCore(), inputs(heads), PackedLayout.from_lengths(lengths), reach)


def cores(rank, size):
    mesh = start(CPU, 60, Topology(sequence=size))
    return RingCore("full", mesh.sequence), WindowCore("window", mesh.window)


def local(tensors, dealing, rank):
    rows = [p for held in dealing.ranges(rank) for p in held]
    return [x[rows] for x in tensors]


def sharded(dealing, lengths, rank, reach, transport="auto"):
    return ShardedLayout.from_share(
        build_share(dealing, Documents.of(lengths), rank, {kind_of(reach): reach}, transport)
    )


def test_sinks_and_capped_scores_are_those_of_dense_attention():
    size, softcap, heads = 3, 1.5, HEADS[0]
    sinks = torch.linspace(-1.0, 2.0, heads[0], dtype=torch.float64)

    def attend_beside(core, tensors, layout, reach):
        *streams, do = tensors
        leaves = [x.clone().requires_grad_() for x in (*streams, sinks)]
        o = core(*leaves[:3], layout, reach, leaves[3])
        return [o.detach(), *torch.autograd.grad(o, leaves, do)]

    every = [(c, layer) for c in list(STREAMS.values())[:2] for layer in LAYERS[:4]]

    def work(rank, world_size):
        mesh = start(CPU, 60, Topology(sequence=world_size))
        cores = (
            RingCore("full", mesh.sequence, softcap=softcap),
            WindowCore("window", mesh.window, softcap=softcap),
        )
        dealing, found = deal_zigzag(TOKENS, size), []
        for lengths, (reach, transport) in every:
            layout = sharded(dealing, lengths, rank, reach, transport)
            core = cores[0] if reach.window is None else cores[1]
            found.append(attend_beside(core, local(inputs(heads), dealing, rank), layout, reach))
        return found

    results = run_on_ranks(work, size)
    for number, (lengths, (reach, _)) in enumerate(every):
        whole = PackedLayout.from_lengths(lengths)
        *truths, d_sinks = attend_beside(DenseCore(softcap), inputs(heads), whole, reach)
        for rank, found in enumerate(results):
            expected = local(truths, deal_zigzag(TOKENS, size), rank)
            for mine, truth in zip(found[number][:-1], expected, strict=True):
                torch.testing.assert_close(mine, truth, atol=1e-12, rtol=0)
        together = sum(found[number][-1] for found in results)
        torch.testing.assert_close(together, d_sinks, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_ranks_together_equal_dense_attention(size):
    every = list(product(dealings(size).items(), STREAMS.items(), LAYERS))
    # Eight ranks share two cores: every fourth case, which meets every dealing, stream and layer.
    cases = [(*c, HEADS[n % 2]) for n, c in enumerate(every[:: 4 if size == 8 else 1])]
    for _, (_, lengths), (reach, _), heads in cases:
        oracle(lengths, reach, heads)

    def work(rank, world_size):
        ring, windowed = cores(rank, size)
        worst = {}
        for (dealt, dealing), (stream, lengths), (reach, transport), heads in cases:
            layout = sharded(dealing, lengths, rank, reach, transport)
            core = ring if reach.window is None else windowed
            ours = attend(core, local(inputs(heads), dealing, rank), layout, reach)
            expected = local(oracle(lengths, reach, heads), dealing, rank)
            errors = [(a - b).abs().max().item() for a, b in zip(ours, expected, strict=True)]
            worst[dealt, stream, reach, transport, heads] = max(errors)
        return worst

    for found in run_on_ranks(work, size):
        assert len(found) == len(cases)
        wrong = {case: error for case, error in found.items() if not error <= 1e-13}
        assert not wrong


def test_blocks_of_queries_and_long_bands_too():
    """Long enough for whole blocks of the kernels' queries and more than one of them."""
    lengths, tokens = (37, 900, 15, 200), 1152
    tensors = inputs((2, 1), tokens)
    whole = PackedLayout.from_lengths(lengths)
    truths = {
        reach: attend(DenseCore(), tensors, whole, reach)
        for reach in (Reach(), Reach(70), Reach(400))
    }

    def work(rank, world_size):
        ring, windowed = cores(rank, world_size)
        worst = 0.0
        for dealing in (deal_contiguous(tokens, 4), deal_zigzag(tokens, 4)):
            for reach, truth in truths.items():
                layout = sharded(dealing, lengths, rank, reach)
                core = ring if reach.window is None else windowed
                ours = attend(core, local(tensors, dealing, rank), layout, reach)
                for a, b in zip(ours, local(truth, dealing, rank), strict=True):
                    worst = max(worst, (a - b).abs().max().item())
        return worst

    # Sums of up to 900 products: a few more last digits than above.
    assert max(run_on_ranks(work, 4)) <= 1e-12


def test_nothing_of_another_document_is_read():
    """One document is NaN on all ranks: everywhere else outputs and gradients keep every bit."""
    lengths, spoilt = (50, 41, 53), range(50, 91)

    def work(rank, world_size):
        ring, windowed = cores(rank, world_size)
        for dealing in dealings(4).values():
            own = torch.tensor([p for held in dealing.ranges(rank) for p in held])
            others = (own < spoilt.start) | (own >= spoilt.stop)
            clean = inputs((4, 2))
            bad = [x.clone() for x in clean]
            for x in bad:
                x[spoilt.start : spoilt.stop] = float("nan")
            for reach, transport in LAYERS:
                layout = sharded(dealing, lengths, rank, reach, transport)
                core = ring if reach.window is None else windowed
                a, b = (attend(core, local(x, dealing, rank), layout, reach) for x in (clean, bad))
                for before, after in zip(a, b, strict=True):
                    assert torch.equal(before[others], after[others])
                    assert after[~others].isnan().all()

    run_on_ranks(work, 4)


def test_two_runs_and_a_recomputed_one_are_bit_identical():
    def work(rank, world_size):
        ring, windowed = cores(rank, world_size)
        dealing, lengths = dealings(4)["scattered"], STREAMS["a document over three ranks"]
        tensors = local(inputs((4, 2), dtype=torch.float32), dealing, rank)

        for reach, transport in ((Reach(), "ring"), (Reach(), "exchange"), (Reach(50), "auto")):
            layout = sharded(dealing, lengths, rank, reach, transport)
            core = ring if reach.window is None else windowed

            def recomputed(*arguments, core=core):
                return checkpoint(core, *arguments, use_reentrant=False)

            first, second, third = (
                attend(c, tensors, layout, reach) for c in (core, core, recomputed)
            )
            for a, b, c in zip(first, second, third, strict=True):
                assert torch.equal(a, b)
                assert torch.equal(a, c)
            with torch.no_grad():
                assert torch.equal(core(*tensors[:3], layout, reach), first[0])

    run_on_ranks(work, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_as_close_to_the_truth_as_the_plain_formula(dtype):
    lengths, heads = STREAMS["a document over three ranks"], (4, 2)
    rounded = inputs(heads, dtype=dtype)
    whole = PackedLayout.from_lengths(lengths)
    truths, plain = {}, {}
    for reach in (Reach(), Reach(50)):
        truths[reach] = attend(DenseCore(), [x.double() for x in rounded], whole, reach)
        plain[reach] = attend(DenseCore(), rounded, whole, reach)

    def work(rank, world_size):
        ring, windowed = cores(rank, world_size)
        dealing = dealings(4)["scattered"]
        for reach, transport in ((Reach(), "ring"), (Reach(), "exchange"), (Reach(50), "auto")):
            layout = sharded(dealing, lengths, rank, reach, transport)
            core = ring if reach.window is None else windowed
            ours = attend(core, local(rounded, dealing, rank), layout, reach)
            references = local(plain[reach], dealing, rank)
            for a, b, c in zip(ours, local(truths[reach], dealing, rank), references, strict=True):
                assert a.dtype == dtype
                allowed = 2 * (c.double() - b).abs().max()
                # Our backward starts from the rounded output: half a step of values near 1.
                assert (a.double() - b).abs().max() <= allowed + torch.finfo(dtype).eps

    run_on_ranks(work, 4)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operator returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_a_ring_never_holds_more_than_two_shards_of_keys():
    """No tensor is larger than one shard's keys and values, and only two of them receive keys."""
    tokens, heads = 768, (2, 2)

    def work(rank, world_size):
        ring, _ = cores(rank, world_size)
        largest = {}
        for name, dealing in (
            ("contiguous", deal_contiguous(tokens, 8)),
            ("zigzag", deal_zigzag(tokens, 8)),
        ):
            layout = sharded(dealing, (tokens,), rank, Reach())
            assert len(layout.routes["full"].steps) == 7
            tensors = local(inputs(heads, tokens), dealing, rank)
            with LargestTensor() as measured:
                attend(ring, tensors, layout, Reach())
            largest[name] = measured.elements
        return largest, ring.buffers.num_rows

    shard = tokens // 8
    for largest, buffers in run_on_ranks(work, 8):
        assert max(largest.values()) <= shard * 2 * heads[1] * HEAD_DIM
        keys = [rows for slot, rows in buffers.items() if slot.startswith("keys")]
        assert sum(keys) <= 2 * shard
        assert all(rows == shard for rows in buffers.values())
        assert len(buffers) <= 5


def test_one_rank_alone_talks_to_nobody():
    """An axis of length 1 has no group; the cores are then ordinary attention."""

    def work(rank, world_size):
        ring, windowed = cores(rank, 1)
        dealing = deal_zigzag(TOKENS, 1)
        for reach, core in ((Reach(), ring), (Reach(50), windowed)):
            lengths = STREAMS["padding at the end"]
            layout = sharded(dealing, lengths, 0, reach)
            for a, b in zip(
                attend(core, inputs((4, 2)), layout, reach),
                oracle(lengths, reach, (4, 2)),
                strict=True,
            ):
                torch.testing.assert_close(a, b, atol=1e-13, rtol=0)

    run_on_ranks(work, 1)
