"""Every core against the dense oracle: outputs, all gradients, borders, and what a window costs."""

import itertools
from typing import get_args, get_type_hints

import pytest
import torch

from model.attention import banded as attention_banded
from model.attention import flash
from model.attention.backends import BACKENDS
from model.attention.core import IMPLEMENTATIONS, choose_core
from model.attention.dense import DenseCore, attention_rows, visible_TS
from model.attention.flash import Flash4
from model.attention.kernels import KERNELS, obstacle
from model.attention.packed import PackedCore
from model.attention.segments import BandedSegments, Segments
from model.attention.small_problems import (
    Problem,
    attend,
    attend_backward,
    attend_by_formula,
    backward_by_formula,
)
from model.config import ModelConfig
from model.packed_layout import PackedLayout
from model.reach import Reach


def banded_core():
    return PackedCore(BandedSegments())


def plan(layout, window):
    """The pieces of a layout's attention."""
    return Segments.from_lengths(layout.lengths, layout.lengths, causal=True, window=window).pieces


BLOCK = 64
ZOO = {
    "one token": [1],
    "ones": [1] * 7,
    "exactly the window, then one more": [16, 17, 15],
    "shorter than a block": [40],
    "not a multiple of a block": [BLOCK + 1, 3, 2 * BLOCK - 1, BLOCK],
    "length 1 between long ones": [130, 1, 201, 1, 1, 77],
    "beyond the batched lengths": [300, 257, 256],
    "many alike": [9, 10, 11, 12, 13, 14, 15, 16] * 2,
}
WINDOWS = [None, 1, 2, 16, 64, 100, 5000]
HEADS = [(4, 4), (4, 2), (4, 1)]


def streams(tokens, heads, *, dtype=torch.float64, head_dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query_heads, key_heads = heads
    return [
        torch.randn(tokens, n, head_dim, generator=generator, dtype=dtype).requires_grad_()
        for n in (query_heads, key_heads, key_heads)
    ]


def run(core, inputs, layout, window):
    """Output and the gradients of queries, keys and values under a fixed upstream gradient."""
    out = core(*inputs, layout, Reach(window))
    upstream = torch.randn(
        out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, upstream)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lengths", ZOO.values(), ids=ZOO.keys())
def test_banded_equals_dense_in_float64(lengths, window):
    layout = PackedLayout.from_lengths(lengths)
    for heads in HEADS:
        inputs = streams(layout.num_tokens, heads)
        ours, oracle = (run(c(), inputs, layout, window) for c in (banded_core, DenseCore))
        for a, b in zip(ours, oracle, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("window", [None, 1, 16])
def test_sinks_and_capped_scores_equal_dense_attention_in_float64(window, softcap):
    layout = PackedLayout.from_lengths([130, 1, 301, 1, 1, 77])
    sinks = torch.linspace(-2.0, 3.0, 4, dtype=torch.float64).requires_grad_()
    for heads in HEADS:
        inputs = [*streams(layout.num_tokens, heads), sinks]
        results = []
        for core in (PackedCore(BandedSegments(softcap)), DenseCore(softcap)):
            out = core(*inputs[:3], layout, Reach(window), sinks)
            upstream = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape)
            results.append([out.detach(), *torch.autograd.grad(out, inputs, upstream)])
        for ours, oracle in zip(*results, strict=True):
            torch.testing.assert_close(ours, oracle, atol=1e-12, rtol=0)


def test_capped_scores_are_refused_by_kernels_without_them():
    with pytest.raises(ValueError, match="does not cap scores"):
        choose_core("varlen", "cuda", torch.bfloat16, softcap=5.0)
    assert choose_core("auto", "cuda", torch.bfloat16, softcap=5.0).backend.name == "banded"


@pytest.mark.parametrize("window", [None, 16])
def test_banded_equals_dense_in_bfloat16(window):
    layout = PackedLayout.from_lengths([130, 1, 201])
    exact_inputs = streams(layout.num_tokens, (4, 2))
    inputs = [x.detach().bfloat16().requires_grad_() for x in exact_inputs]
    exact = run(DenseCore(), [x.detach().double().requires_grad_() for x in inputs], layout, window)
    dense, banded = (run(c(), inputs, layout, window) for c in (DenseCore, banded_core))
    for truth, reference, ours in zip(exact, dense, banded, strict=True):
        assert ours.dtype == torch.bfloat16
        allowed = 2 * (reference.double() - truth).abs().max()
        # The backward starts from the rounded output; 2**-8 is half a step of values near 1.
        assert (ours.double() - truth).abs().max() <= allowed + 2**-8


@pytest.mark.parametrize("mask_of", ["causal", "band"])
def test_formulas_for_other_devices_equal_the_cpu_kernels(mask_of):
    torch.manual_seed(0)
    q, o_gradient = torch.randn(2, 3, 4, 10, 8, dtype=torch.float64)
    keys = 10 if mask_of == "causal" else 14
    k, v = torch.randn(2, 3, 2, keys, 8, dtype=torch.float64)
    mask = None if mask_of == "causal" else attention_banded.Band(5, 3, 10, 5).mask(q)
    problem = Problem(q, k, v, mask)
    kernel, formula = attend(problem), attend_by_formula(problem)
    gradients = (
        attend_backward(o_gradient, problem, *kernel),
        backward_by_formula(o_gradient, problem, *formula),
    )
    for a, b in zip((*kernel, *gradients[0]), (*formula, *gradients[1]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("core", [DenseCore(), banded_core()], ids=["dense", "banded"])
@pytest.mark.parametrize("window", [None, 16])
def test_documents_do_not_touch(core, window):
    """Not even a NaN crosses a border of the banded core; a change in one document never does."""
    layout = PackedLayout.from_lengths([70, 90, 5])
    q, k, v = (x.detach() for x in streams(165, (4, 2)))
    before = core(q, k, v, layout, Reach(window))
    spoilt = [x.clone() for x in (q, k, v)]
    for x in spoilt:
        x[:70] = float("nan") if core.backend.name == "banded" else 1e3
    after = core(*spoilt, layout, Reach(window))
    assert torch.equal(before[70:], after[70:])
    assert not torch.equal(before[:70], after[:70])


@pytest.mark.parametrize("window", [None, 16, 64])
def test_packed_equals_each_document_alone(window):
    lengths = [130, 1, 64, 65, 300]
    layout = PackedLayout.from_lengths(lengths)
    inputs = streams(layout.num_tokens, (4, 2))
    packed = run(banded_core(), inputs, layout, window)
    upstream = torch.randn(
        packed[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for start, stop in itertools.pairwise(layout.cu_seqlens.tolist()):
        alone = [x.detach()[start:stop].requires_grad_() for x in inputs]
        out = banded_core()(*alone, PackedLayout.from_lengths([stop - start]), Reach(window))
        gradients = torch.autograd.grad(out, alone, upstream[start:stop])
        for whole, part in zip(packed, (out, *gradients), strict=True):
            torch.testing.assert_close(whole[start:stop], part, atol=1e-13, rtol=0)


def test_golden_window():
    """Window 4: query 11 sees exactly the keys 8, 9, 10, 11."""
    layout = PackedLayout.from_lengths([16])
    assert visible_TS(layout, Reach(4))[11].nonzero().flatten().tolist() == [8, 9, 10, 11]
    assert visible_TS(layout, Reach(4))[2].nonzero().flatten().tolist() == [0, 1, 2]
    q, k, v = (x.detach() for x in streams(16, (1, 1)))
    before = banded_core()(q, k, v, layout, Reach(4))[11]
    for key in range(16):
        changed = v.clone()
        changed[key] += 1
        reached = not torch.equal(banded_core()(q, k, changed, layout, Reach(4))[11], before)
        assert reached == (key in (8, 9, 10, 11))


def test_a_token_before_the_window_leaves_no_trace():
    """Bit-identical, in the core's own block arithmetic, also across block borders."""
    layout = PackedLayout.from_lengths([400])
    q, k, v = (x.detach() for x in streams(400, (4, 2), dtype=torch.float32))
    before = banded_core()(q, k, v, layout, Reach(20))
    for changed in (0, 19, 63, 200):
        k2, v2 = k.clone(), v.clone()
        k2[changed] += 3
        v2[changed] -= 2
        after = banded_core()(q, k2, v2, layout, Reach(20))
        differs = (after != before).flatten(1).any(dim=1).nonzero().flatten()
        assert differs.min() == changed
        assert differs.max() == changed + 19


def test_rows_sum_to_one_and_respect_the_mask():
    layout = PackedLayout.from_lengths([5, 1, 9])
    q, k, _ = streams(15, (4, 2))
    rows = attention_rows(q, k, layout, Reach(3))
    torch.testing.assert_close(rows.sum(-1), torch.ones(4, 15, dtype=torch.float64))
    assert torch.equal(rows[0] > 0, visible_TS(layout, Reach(3)))


def test_every_token_is_a_query_once():
    for lengths in ZOO.values():
        layout = PackedLayout.from_lengths(lengths)
        for window in WINDOWS:
            reach = min(window or layout.max_seqlen, layout.max_seqlen)
            seen = torch.zeros(layout.num_tokens, 1, 1)
            for piece in plan(layout, reach):
                counted = torch.zeros_like(seen)
                piece.put_queries(counted, torch.ones_like(piece.queries(counted)))
                seen += counted
            assert torch.equal(seen, torch.ones_like(seen))


def scores_computed(layout, window):
    """Query-key pairs the banded core hands to its kernels (a causal kernel skips half of them)."""
    probe = torch.zeros(layout.num_tokens, 1, 1)
    return sum(
        piece.queries(probe).shape[0] * piece.queries(probe).shape[2] * piece.keys(probe).shape[2]
        for piece in plan(layout, window)
    )


@pytest.mark.parametrize("window", [16, 128, 1024])
def test_windowed_work_grows_with_the_length_not_its_square(window):
    short, long = (scores_computed(PackedLayout.from_lengths([n]), window) for n in (4096, 16384))
    assert long <= 5 * short
    # And no more than blocks of 64 around the window can explain.
    assert long <= 16384 * (window + BLOCK)


def test_windowed_memory_grows_with_the_length_not_its_square():
    def saved_bytes(tokens):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.nbytes) or t, lambda t: t
        ):
            banded_core()(
                *streams(tokens, (4, 2), dtype=torch.float32),
                PackedLayout.from_lengths([tokens]),
                Reach(128),
            )
        return sum(sizes)

    assert saved_bytes(16384) <= 5 * saved_bytes(4096)
    # Queries, keys, values, output: 8 rows of 8 floats and 4 heads' log-sum-exp a token; no mask.
    assert saved_bytes(4096) <= 4096 * (4 + 2 + 2 + 4 + 1) * 8 * 4


def test_layers_of_a_kind_share_a_plan_which_dies_with_its_layout():
    core = banded_core()
    layout = PackedLayout.from_lengths([200, 30])
    inputs = [x.detach() for x in streams(230, (4, 2))]
    for window in (16, 16, None, 200, 5000):
        core(*inputs, layout, Reach(window))
    # No window, the longest document and anything beyond it are the same plan.
    assert core._segments[layout].keys() == {Reach(16), Reach()}
    del layout
    assert len(core._segments) == 0


@pytest.mark.parametrize("window", [None, 16])
def test_no_gradients_are_prepared_without_need(window):
    layout = PackedLayout.from_lengths([50])
    with torch.no_grad():
        assert not banded_core()(*streams(50, (4, 2)), layout, Reach(window)).requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_auto_is_banded_on_cpu(dtype):
    assert choose_core("auto", "cpu", dtype).backend.name == "banded"
    assert isinstance(choose_core("dense", torch.device("cpu"), dtype), DenseCore)


def test_what_cannot_serve_says_why_and_what_to_use():
    with pytest.raises(ValueError, match=r"flash_attn.*not on cpu.*use auto"):
        choose_core("flash_attn", "cpu", torch.bfloat16)
    with pytest.raises(ValueError, match=r"varlen.*not in float32.*use auto"):
        choose_core("varlen", "cuda", torch.float32)
    with pytest.raises(ValueError, match=r"varlen.*head_dim of 8 to 256 in steps of 8, not 20"):
        choose_core("varlen", "cuda", torch.bfloat16, 20)
    with pytest.raises(ValueError, match=r"attention_backend=flash: unknown.*flash_attn"):
        choose_core("flash", "cuda", torch.bfloat16)


def test_half_precision_on_cuda_prefers_the_newest_flash_attention(monkeypatch):
    def able(dtype, head_dim=64):
        return [i.backend.name for i in IMPLEMENTATIONS if not obstacle(i, "cuda", dtype, head_dim)]

    for implementation in IMPLEMENTATIONS:
        monkeypatch.setattr(implementation, "missing", staticmethod(lambda _: ""))
    assert able(torch.bfloat16)[:3] == ["flash_attn_3", "flash_attn_4", "varlen"]
    assert able(torch.bfloat16, 20)[0] == able(torch.float32)[0] == "banded"


def test_flash_attention_4_leaves_wide_heads_on_blackwell_to_another_kernel(monkeypatch):
    """Its kernels take a head_dim of 256 on Hopper (generation 9), and at most 128 on Blackwell (10)."""

    def fastest(head_dim):
        able = (k for k in KERNELS if not obstacle(k, "cuda", torch.bfloat16, head_dim))
        return next(able).backend.name

    monkeypatch.setattr(flash, "_package", lambda _: True)
    monkeypatch.setattr(flash, "_generation", lambda: 10)
    assert fastest(128) == "flash_attn_4"
    assert fastest(136) == fastest(256) == "varlen"
    with pytest.raises(ValueError, match=r"flash_attn_4: takes a head_dim of at most 128.*not 256"):
        choose_core("flash_attn_4", "cuda", torch.bfloat16, 256)
    monkeypatch.setattr(flash, "_generation", lambda: 9)
    assert obstacle(Flash4, "cuda", torch.bfloat16, 256) == ""


def test_facts_and_kernels_name_the_same_backends_in_the_same_order():
    names = [implementation.backend.name for implementation in IMPLEMENTATIONS]
    assert names == list(BACKENDS)
    assert set(names) == set(get_args(get_type_hints(ModelConfig)["attention_backend"])) - {"auto"}
