"""The properties that pin the architecture, and the promises parallelism builds on."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.attention.core import choose_core
from model.attention.dense import DenseCore, attention_rows
from model.config import ModelConfig
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.position.rotation import make_rotation, rotate
from model.reach import Reach
from model.recompute import cut, joined, powers_of_two, to_host
from model.transformer import Transformer

BASE = 10000.0
TINY = ModelConfig(
    hidden_size=32,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=61,
    window=8,
    init_std=0.2,
)


def built(config, core=None, **parts):
    model = Transformer(
        config, core or choose_core("banded", "cpu", torch.float64), **parts
    ).double()
    initialize(model, config, seed=0)
    return model


def random_tokens(count, seed=0):
    return torch.randint(0, 61, (count,), generator=torch.Generator().manual_seed(seed))


def last_hidden(model, tokens):
    with torch.no_grad():
        return model(tokens, PackedLayout.from_lengths([len(tokens)]), BASE)


def test_nope_does_not_see_order_and_rope_does():
    tokens = random_tokens(20)
    shuffled = torch.cat((tokens[:19][torch.randperm(19)], tokens[19:]))
    nope = built(replace(TINY, num_layers=1, layer_pattern=["full_nope"]))
    rope = built(replace(TINY, num_layers=1, layer_pattern=["full_rope"]))
    torch.testing.assert_close(
        last_hidden(nope, tokens)[-1], last_hidden(nope, shuffled)[-1], atol=1e-12, rtol=0
    )
    assert (last_hidden(rope, tokens)[-1] - last_hidden(rope, shuffled)[-1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "core", [DenseCore(), choose_core("banded", "cpu", torch.float64)], ids=["dense", "banded"]
)
@pytest.mark.parametrize(("layers", "window", "reach"), [(1, 4, 4), (3, 4, 10), (2, 70, 139)])
def test_stacked_windows_reach_exactly_k_times_window_minus_one(core, layers, window, reach):
    config = replace(TINY, num_layers=layers, layer_pattern=["window_rope"], window=window)
    model = built(config, core)
    tokens = random_tokens(reach + 5)
    before = last_hidden(model, tokens)[-1]
    felt = []
    for age in range(1, len(tokens) + 1):
        changed = tokens.clone()
        changed[-age] = (changed[-age] + 1) % 61
        felt.append(not torch.equal(last_hidden(model, changed)[-1], before))
    assert felt == [True] * reach + [False] * 5


def test_constant_tokens_leave_nope_rows_uniform_and_rope_rows_not():
    tokens = torch.full((12,), 3)
    layout = PackedLayout.from_lengths([12])
    uniform = torch.ones(12, 12, dtype=torch.float64).tril()
    uniform = uniform / uniform.sum(-1, keepdim=True)
    for kind, is_uniform in (("full_nope", True), ("full_rope", False)):
        model = built(replace(TINY, num_layers=2, layer_pattern=[kind]))
        attention = model.layers["1"].attention
        x = model.layers["1"].norm(model.embedding(tokens))
        rotation = None
        if not is_uniform:
            rotation = make_rotation(layout.positions_T, BASE, head_dim=8, dtype=torch.float64)
        q, k = (
            rotate(projection(x).unflatten(-1, (-1, 8)), rotation)
            for projection in (attention.q_proj, attention.k_proj)
        )
        distance = (attention_rows(q, k, layout, Reach()) - uniform).abs().max().item()
        assert (distance < 1e-14) == is_uniform
        if is_uniform:
            hidden = last_hidden(model, tokens)
            torch.testing.assert_close(hidden, hidden[:1].expand_as(hidden), atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    "core", [DenseCore(), choose_core("banded", "cpu", torch.float64)], ids=["dense", "banded"]
)
def test_a_document_never_feels_its_neighbours(core):
    model = built(TINY, core)
    layout = PackedLayout.from_lengths([30, 25, 1])
    tokens = random_tokens(56)
    changed = tokens.clone()
    changed[:30] = random_tokens(30, seed=5)
    with torch.no_grad():
        before, after = model(tokens, layout, BASE), model(changed, layout, BASE)
    assert torch.equal(before[30:], after[30:])
    assert not torch.equal(before[:30], after[:30])


def test_packed_equals_separate_in_hidden_states_loss_and_every_gradient():
    model = built(TINY)
    lengths = [40, 1, 9, 23]
    tokens, targets = random_tokens(73), random_tokens(73, seed=1)
    packed = model.loss(model(tokens, PackedLayout.from_lengths(lengths), BASE), targets, 1e-3)
    packed.total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    totals = []
    for part, target in zip(tokens.split(lengths), targets.split(lengths), strict=True):
        hidden = model(part, PackedLayout.from_lengths([len(part)]), BASE)
        totals.append(model.loss(hidden, target, 1e-3).total)
    torch.stack(totals).sum().backward()
    torch.testing.assert_close(packed.total, torch.stack(totals).sum(), atol=1e-11, rtol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-11, rtol=0, msg=name)


@pytest.mark.parametrize("block", ["parallel", "sequential"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_banded_and_dense_models_agree_in_every_gradient(block, norm, qk_norm):
    config = replace(TINY, block=block, norm=norm, qk_norm=qk_norm, logit_scale=0.25)
    layout = PackedLayout.from_lengths([40, 1, 70])
    tokens, targets = random_tokens(111), random_tokens(111, seed=1)
    gradients = []
    for core in (choose_core("banded", "cpu", torch.float64), DenseCore()):
        model = built(config, core)
        model.loss(model(tokens, layout, BASE), targets).total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-11, rtol=0, msg=name)
        assert torch.count_nonzero(gradient) > 0, name


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"block": "sequential", "output_bias": True, "feed_forward_bias": True},
        {"block": "sequential", "norm_at": "after"},
        {"block": "sequential", "norm": "rmsnorm", "norm_at": "both"},
    ],
)
def test_the_residual_scale_is_a_factor_of_what_ends_both_halves_of_a_block(form):
    """The same model with that factor in the weights, and a biased model too, whose biases it multiplies as well."""
    config = replace(TINY, **form)
    scaled, folded = built(replace(config, residual_scale=0.3)), built(config)
    ends = ("post_norm.weight",) if "norm_at" in form else ("o_proj.", "down_proj.")
    with torch.no_grad():
        for (name, ours), theirs in zip(
            scaled.named_parameters(), folded.parameters(), strict=True
        ):
            if name.endswith(".bias"):
                ours.add_(0.2)
            theirs.copy_(ours)
            if any(end in name for end in ends):
                theirs.mul_(0.3)
    tokens, layout = random_tokens(23), PackedLayout.from_lengths([20, 3])
    torch.testing.assert_close(
        scaled(tokens, layout, BASE), folded(tokens, layout, BASE), atol=1e-12, rtol=0
    )


def test_one_layer_as_written_on_paper():
    """A readable parallel block, spelled out with torch's own attention."""
    config = replace(TINY, num_layers=1, layer_pattern=["full_nope"], logit_scale=0.5)
    model = built(config)
    weights = dict(model.named_parameters())
    tokens = random_tokens(9)
    x = weights["embedding.weight"][tokens]
    n = F.layer_norm(x, (32,), eps=1e-5)
    layer = "layers.0.attention."
    q, k, v = (
        (n @ weights[f"{layer}{name}_proj.weight"].t()).view(9, -1, 8).transpose(0, 1)
        for name in "qkv"
    )
    scores = q @ k.repeat_interleave(2, 0).mT / math.sqrt(8)
    rows = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf).softmax(-1)
    attended = (rows @ v.repeat_interleave(2, 0)).transpose(0, 1).flatten(1)
    gate, up = (
        n @ weights[f"layers.0.feed_forward.{name}_proj.weight"].t() for name in ("gate", "up")
    )
    y = (
        x
        + attended @ weights[f"{layer}o_proj.weight"].t()
        + (F.silu(gate) * up) @ weights["layers.0.feed_forward.down_proj.weight"].t()
    )
    logits = 0.5 * F.layer_norm(y, (32,), eps=1e-5) @ weights["embedding.weight"].t()
    hidden = model(tokens, PackedLayout.from_lengths([9]), BASE)
    torch.testing.assert_close(model.logits(hidden), logits, atol=1e-12, rtol=0)
    targets = random_tokens(9, seed=3)
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(model.token_losses(hidden, targets), expected, atol=1e-12, rtol=0)
    total = model.loss(hidden, targets).total
    torch.testing.assert_close(total, expected.sum(), atol=1e-12, rtol=0)


def test_stages_in_a_row_are_the_whole_model():
    whole = built(TINY)
    stages = [
        built(TINY, layer_indices=[0], has_head=False),
        built(TINY, layer_indices=[1, 2], has_embedding=False, has_head=False),
        built(TINY, layer_indices=[3], has_embedding=False),
    ]
    layout = PackedLayout.from_lengths([30, 12])
    tokens, targets = random_tokens(42), random_tokens(42, seed=1)
    x = tokens
    for stage in stages:
        x = stage(x, layout, BASE)
    assert torch.equal(x, whole(tokens, layout, BASE))
    assert torch.equal(stages[-1].loss(x, targets).total, whole.loss(x, targets).total)
    assert list(stages[1].layers) == ["1", "2"]


@pytest.mark.parametrize("kept", ["input", "input_on_cpu"])
def test_recomputation_gives_the_same_gradients_from_less_memory(kept):
    layout = PackedLayout.from_lengths([90, 38])
    tokens, targets = random_tokens(128), random_tokens(128, seed=1)

    def gradients_and_bytes(what):
        model = built(TINY)
        model.keep_for_backward(what)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.nbytes) or t, lambda t: t
        ):
            hidden = model(tokens, layout, BASE)
        model.loss(hidden, targets).total.backward()
        return {name: p.grad for name, p in model.named_parameters()}, sum(sizes)

    everything, plain_bytes = gradients_and_bytes("everything")
    recomputed, kept_bytes = gradients_and_bytes(kept)
    assert all(torch.equal(everything[name], recomputed[name]) for name in everything)
    assert kept_bytes < plain_bytes / 3


def test_offloading_moves_only_the_layers_inputs(monkeypatch):
    """Inside the offloading context exactly one tensor a layer is saved: its input."""
    moved = []
    monkeypatch.setattr(
        "model.recompute.to_host", lambda t: moved.append(tuple(t.shape)) or to_host(t)
    )
    model = built(TINY)
    model.keep_for_backward("input_on_cpu")
    model(random_tokens(40), PackedLayout.from_lengths([40]), BASE)
    assert [shape for shape in moved if shape != (0,)] == [(40, 32)] * 4


@pytest.mark.parametrize("count", [0, 1, 2**18 - 1, 2**18, 2**20 + 2**19 + 5, 10**9])
def test_a_copy_on_the_host_is_cut_into_powers_of_two(count):
    """All of them but a small rest are what the allocator rounds up to; nothing is lost."""
    pieces = powers_of_two(count)
    assert sum(pieces) == count
    assert all(piece.bit_count() == 1 for piece in pieces[:-1])
    assert pieces == sorted(set(pieces), reverse=True)


def test_a_cut_copy_is_joined_again(monkeypatch):
    monkeypatch.setattr("model.recompute._SMALL", 4)
    x = torch.randn(11, 3).t()  # not contiguous
    pieces = cut(x)
    assert [len(piece) for piece in pieces] == [32, 1]
    assert joined(pieces, x.device).view(x.shape).equal(x)


def test_an_unknown_choice_of_what_to_keep_is_refused():
    with pytest.raises(ValueError, match=r"keep_for_backward=all.*everything"):
        built(TINY).keep_for_backward("all")


def test_names_are_stable():
    names = set(dict(built(replace(TINY, tie_embeddings=False)).named_parameters()))
    projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    expected = {"embedding.weight", "norm.weight", "lm_head.weight"}
    for index in range(4):
        expected |= {f"layers.{index}.norm.weight"}
        expected |= {f"layers.{index}.attention.{p}.weight" for p in projections}
        expected |= {f"layers.{index}.feed_forward.{p}_proj.weight" for p in ("gate", "up", "down")}
    assert names == expected
    assert "lm_head.weight" not in dict(built(TINY).named_parameters())


def test_the_core_is_a_seam():
    model = built(TINY)
    calls = []
    dense = DenseCore()

    def recording(q, k, v, layout, reach):
        calls.append((tuple(q.shape), tuple(k.shape), reach))
        return dense(q, k, v, layout, reach)

    for layer in model.layers.values():
        layer.attention.core = recording
    last_hidden(model, random_tokens(10))
    assert calls == [((10, 4, 8), (10, 2, 8), Reach(window)) for window in (8, 8, 8, None)]


def test_nothing_remembers_the_base():
    model = built(TINY)
    layout, tokens = PackedLayout.from_lengths([50]), random_tokens(50)
    with torch.no_grad():
        first = model(tokens, layout, BASE)
        other = model(tokens, layout, 500000.0)
        again = model(tokens, layout, BASE)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert list(model.buffers()) == []


def test_bfloat16_trains_in_bfloat16():
    model = built(TINY).bfloat16()
    hidden = model(random_tokens(60), PackedLayout.from_lengths([60]), BASE)
    assert hidden.dtype == torch.bfloat16
    sums = model.loss(hidden, random_tokens(60, seed=1))
    sums.total.backward()
    assert sums.loss_sum.dtype == torch.float32
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())
