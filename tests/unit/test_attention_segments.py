"""Segments of queries over segments of keys: both kernels against the formula, and joining of parts."""

import sys
from itertools import accumulate
from types import ModuleType

import pytest
import torch

from model.attention.flash import Flash2, Flash4, TorchFlash
from model.attention.kernels import choose_segment_kernel
from model.attention.segments import (
    BandedSegments,
    Segments,
)

# Lengths of queries and of keys, segment by segment.
SQUARE = {
    "one token": ([1], [1]),
    "ones and long": ([1, 130, 1, 1, 77, 300], [1, 130, 1, 1, 77, 300]),
}
AHEAD = {
    "one query, many keys": ([1], [150]),
    "a halo of every size": ([5, 70, 1, 200, 64], [6, 133, 1, 215, 128]),
    "first ahead, then square ones": ([100, 9, 10, 300, 1], [115, 9, 10, 300, 1]),
}
RECTANGLES = {"fewer keys than queries": ([70, 1, 5], [3, 90, 1]), "one": ([65], [64])}
WINDOWS = [None, 1, 2, 16, 64, 100, 5000]


def visible(queries, keys, causal, window):
    """bool (all queries, all keys), straight from the definition."""
    seen = torch.zeros(sum(queries), sum(keys), dtype=torch.bool)
    starts = zip(accumulate([0, *queries]), accumulate([0, *keys]), strict=False)
    for (query, key), n, m in zip(starts, queries, keys, strict=False):
        for i in range(n):
            own = m - n + i
            first = 0 if window is None or not causal else max(0, own - window + 1)
            stop = own + 1 if causal else m
            seen[query + i, key + first : key + stop] = True
    return seen


def dense(q, k, v, seen):
    """Output and log-sum-exp by the formula, in the dtype of the inputs."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    scores = torch.einsum("thk,shk->hts", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~seen, float("-inf"))
    return torch.einsum("hts,shk->thk", scores.softmax(-1), v), scores.logsumexp(-1).T


def streams(num_queries, num_keys, heads, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (num_queries, heads[0], 8),
        *[(num_keys, heads[1], 8)] * 2,
        (num_queries, heads[0], 8),
    ]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def check(lengths, causal, window, heads=(4, 2)):
    queries, keys = lengths
    q, k, v, do = streams(sum(queries), sum(keys), heads)
    segments = Segments.from_lengths(queries, keys, causal=causal, window=window)
    kernel = choose_segment_kernel("cpu", q.dtype, q.shape[-1])
    o, lse = kernel.forward(q, k, v, segments)
    gradients = kernel.backward(do, q, k, v, o, lse, segments)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    expected, expected_lse = dense(*leaves, visible(queries, keys, causal, window))
    oracle = (expected, expected_lse, *torch.autograd.grad(expected, leaves, do))
    for a, b in zip((o, lse, *gradients), oracle, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lengths", [*SQUARE.values(), *AHEAD.values()], ids=[*SQUARE, *AHEAD])
def test_causal_segments_equal_the_formula(lengths, window):
    for heads in ((4, 4), (4, 2), (4, 1)):
        check(lengths, causal=True, window=window, heads=heads)


@pytest.mark.parametrize("lengths", RECTANGLES.values(), ids=RECTANGLES)
def test_rectangles_equal_the_formula(lengths):
    for heads in ((4, 4), (4, 2), (4, 1)):
        check(lengths, causal=False, window=None, heads=heads)


def test_what_no_query_sees_may_be_anything():
    """Keys before the window of a segment's first query, and those of other segments."""
    q, k, v, _ = streams(60, 130, (4, 2))
    segments = Segments.from_lengths([20, 40], [60, 70], causal=True, window=8)
    clean, _ = BandedSegments().forward(q, k, v, segments)
    hidden = ~visible([20, 40], [60, 70], causal=True, window=8).any(dim=0)
    assert hidden.sum() == 33 + 23
    k[hidden] = v[hidden] = float("nan")
    assert torch.equal(BandedSegments().forward(q, k, v, segments)[0], clean)


def test_a_backward_with_the_joined_output_gives_each_parts_share():
    """Two rectangles of keys: their gradients under the final log-sum-exp are the whole's."""
    q, k, v, do = streams(40, 50, (4, 2))
    whole, left, right = (
        Segments.from_lengths([40], [keys], causal=False) for keys in (50, 18, 32)
    )
    kernel = BandedSegments()
    o, lse = kernel.forward(q, k, v, whole)
    dq, dk, dv = kernel.backward(do, q, k, v, o, lse, whole)
    parts = [
        kernel.backward(do, q, k[rows], v[rows], o, lse, segments)
        for rows, segments in ((slice(0, 18), left), (slice(18, 50), right))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], dq, atol=1e-13, rtol=0)
    for whole_gradient, index in ((dk, 1), (dv, 2)):
        joined = torch.cat([part[index] for part in parts])
        torch.testing.assert_close(joined, whole_gradient, atol=1e-13, rtol=0)


def test_no_mask_is_larger_than_a_block():
    segments = Segments.from_lengths([2000, 900], [2100, 1800], causal=True, window=None)
    like = torch.zeros(1)
    masks = [piece.mask(like) for piece in segments.pieces]
    assert all(mask is None or mask.shape[0] <= 64 for mask in masks)
    assert Segments.from_lengths([500], [700], causal=False).pieces[0].mask(like) is None


def test_half_precision_is_computed_in_float32():
    q, k, v, do = streams(70, 90, (4, 2), torch.bfloat16)
    segments = Segments.from_lengths([70], [90], causal=True)
    o, lse = BandedSegments().forward(q, k, v, segments)
    assert o.dtype == lse.dtype == torch.float32
    gradients = BandedSegments().backward(do, q, k, v, o, lse, segments)
    assert {x.dtype for x in gradients} == {torch.float32}


def test_the_kernel_follows_device_and_dtype():
    assert isinstance(choose_segment_kernel("cpu", torch.bfloat16, 64), BandedSegments)
    assert isinstance(choose_segment_kernel("cuda", torch.bfloat16, 64), TorchFlash)
    assert isinstance(choose_segment_kernel("cuda", torch.float32, 64), BandedSegments)
    assert isinstance(choose_segment_kernel("cuda", torch.bfloat16, 20), BandedSegments)


class StandInOperators:
    """What torch's flash operators compute, as torch's own varlen attention calls them, in float64."""

    def __init__(self, queries, keys):
        self.queries, self.keys = queries, keys

    def seen(self, cu_q, cu_k, max_q, max_k, options):
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert cu_q.diff().tolist() == self.queries
        assert cu_k.diff().tolist() == self.keys
        assert (max_q, max_k) == (max(2, *self.queries), max(self.keys))
        left, right = options["window_size_left"], options["window_size_right"]
        assert right in (0, -1)
        return visible(self.queries, self.keys, right == 0, None if left == -1 else left + 1)

    def _flash_attention_forward(
        self, q, k, v, cu_q, cu_k, max_q, max_k, dropout, is_causal, debug, **options
    ):
        assert (dropout, is_causal, debug) == (0.0, False, False)
        o, lse = dense(q, k, v, self.seen(cu_q, cu_k, max_q, max_k, options))
        return o, lse.T.contiguous(), torch.zeros(2), torch.empty(0), torch.empty(0)

    def _flash_attention_backward(
        self, do, q, k, v, o, lse_HT, cu_q, cu_k, max_q, max_k, dropout, is_causal, state, unused,
        **options,
    ):  # fmt: skip
        assert (dropout, is_causal) == (0.0, False)
        assert (state.dtype, state.numel(), unused.numel()) == (torch.uint64, 2, 0)
        assert lse_HT.shape == (q.shape[1], q.shape[0])
        assert lse_HT.is_contiguous()
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        expected, lse = dense(*leaves, self.seen(cu_q, cu_k, max_q, max_k, options))
        torch.testing.assert_close(expected, o)
        torch.testing.assert_close(lse.T, lse_HT)
        return torch.autograd.grad(expected, leaves, do)


class StandInPackage(StandInOperators):
    """What the packages of flash attention 2 and 4 compute, by the names and in the order of their arguments."""

    def _flash_attn_varlen_forward(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal,
        window_size_left=-1, window_size_right=-1,
    ):  # fmt: skip
        assert softmax_scale == q.shape[-1] ** -0.5
        assert causal == (window_size_right == 0)
        return self._flash_attention_forward(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p, False, False,
            window_size_left=window_size_left, window_size_right=window_size_right,
        )  # fmt: skip

    def _flash_attn_varlen_backward(
        self, dout, q, k, v, out, softmax_lse, dq, dk, dv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q,
        max_seqlen_k, dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap,
        alibi_slopes, deterministic,
    ):  # fmt: skip
        assert (softmax_scale, softcap, alibi_slopes) == (q.shape[-1] ** -0.5, 0.0, None)
        assert causal == (window_size_right == 0)
        assert deterministic is False
        found = self._flash_attention_backward(
            dout, q, k, v, out, softmax_lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p,
            False, torch.zeros(2, dtype=torch.uint64), torch.empty(0),
            window_size_left=window_size_left, window_size_right=window_size_right,
        )  # fmt: skip
        for into, gradient in zip((dq, dk, dv), found, strict=True):
            into.copy_(gradient)

    @staticmethod
    def _limits(causal, window_size_left, window_size_right):
        assert window_size_right == (None if window_size_left is None else 0)
        left = -1 if window_size_left is None else window_size_left
        return {"window_size_left": left, "window_size_right": 0 if causal else -1}

    def _flash_attn_fwd(
        self, q, k, v, *, return_lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal,
        window_size_left, window_size_right,
    ):  # fmt: skip
        assert return_lse
        return self._flash_attention_forward(
            q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, 0.0, False, False,
            **self._limits(causal, window_size_left, window_size_right),
        )  # fmt: skip

    def _flash_attn_bwd(
        self, q, k, v, out, dout, lse, *, deterministic, cu_seqlens_q, cu_seqlens_k, max_seqlen_q,
        max_seqlen_k, causal, window_size_left, window_size_right,
    ):  # fmt: skip
        assert deterministic is False
        return self._flash_attention_backward(
            dout, q, k, v, out, lse, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, 0.0, False,
            torch.zeros(2, dtype=torch.uint64), torch.empty(0),
            **self._limits(causal, window_size_left, window_size_right),
        )  # fmt: skip


@pytest.mark.parametrize("kernel", [TorchFlash, Flash2, Flash4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [([5, 20, 1], [6, 29, 1]), ([1, 1], [1, 4])])
def test_flash_is_called_in_its_own_convention(monkeypatch, lengths, causal, kernel):
    queries, keys = lengths
    package = StandInPackage(queries, keys)
    for operator in ("_flash_attention_forward", "_flash_attention_backward"):
        monkeypatch.setattr(torch.ops.aten, operator, getattr(package, operator))
    for name in ("flash_attn.flash_attn_interface", "flash_attn.cute.interface"):
        monkeypatch.setitem(sys.modules, name.split(".")[0], ModuleType("flash_attn"))
        monkeypatch.setitem(sys.modules, "flash_attn.cute", ModuleType("cute"))
        monkeypatch.setitem(sys.modules, name, package)
    for window in (None, 1, 7) if causal else (None,):
        segments = Segments.from_lengths(queries, keys, causal=causal, window=window)
        q, k, v, do = streams(sum(queries), sum(keys), (4, 2))
        o, lse = kernel().forward(q, k, v, segments)
        gradients = kernel().backward(do, q, k, v, o, lse, segments)
        banded, banded_lse = BandedSegments().forward(q, k, v, segments)
        expected = BandedSegments().backward(do, q, k, v, banded, banded_lse, segments)
        for a, b in zip((o, lse, *gradients), (banded, banded_lse, *expected), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_the_flash_operators_of_this_torch_take_what_we_give():
    operators = torch.ops.aten
    forward = operators._flash_attention_forward.default._schema
    backward = operators._flash_attention_backward.default._schema
    names = [argument.name for argument in forward.arguments]
    assert names[3:10] == [
        "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal", "return_debug_mask",
    ]  # fmt: skip
    assert {"window_size_left", "window_size_right"} <= set(names)
    assert [r.name for r in forward.returns][:2] == ["output", "softmax_logsumexp"]
    names = [argument.name for argument in backward.arguments]
    assert names[:14] == [
        "grad_out", "query", "key", "value", "out", "logsumexp", "cum_seq_q", "cum_seq_k",
        "max_q", "max_k", "dropout_p", "is_causal", "rng_state", "unused",
    ]  # fmt: skip
    assert {"window_size_left", "window_size_right"} <= set(names)
