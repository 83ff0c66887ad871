"""The feed-forward in tiles against the plain formula: the same numbers, from less memory."""

from dataclasses import replace

import pytest
import torch

from model.attention.core import choose_core
from model.config import ModelConfig
from model.feed_forward.dense import FeedForward
from model.feed_forward.tiled import TILE_ROWS, tiled_swiglu
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from train.configuration.compose import compose_run
from train.configuration.validate import problems

TOKENS, WIDTH, INNER = 23, 8, 20


def layer(dtype: torch.dtype = torch.float64) -> tuple[FeedForward, torch.Tensor]:
    torch.manual_seed(0)
    found = FeedForward(WIDTH, INNER).to(dtype)
    return found, torch.randn(TOKENS, WIDTH, dtype=dtype, requires_grad=True)


def answers(module: FeedForward, x_TD: torch.Tensor) -> list[torch.Tensor]:
    y_TD = module(x_TD)
    upstream_TD = torch.linspace(-1, 1, y_TD.numel(), dtype=y_TD.dtype).view_as(y_TD)
    return [y_TD, *torch.autograd.grad(y_TD, [x_TD, *module.parameters()], upstream_TD)]


@pytest.mark.parametrize("rows", [1, 5, TOKENS - 1, TOKENS, 0])
def test_tiles_give_the_outputs_and_all_gradients_of_the_whole(rows):
    """Tiles of one token, a shorter last one, one tile, none: against autograd of the formula, float64."""
    module, x_TD = layer()
    expected = answers(module, x_TD)
    module.tile_rows = rows
    for mine, true in zip(answers(module, x_TD), expected, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frozen", ["gate_proj", "up_proj", "down_proj", "all", "input"])
def test_tiles_compute_no_gradient_that_nobody_needs(frozen):
    """Of the others they give the same."""
    module, x_TD = layer()
    names = ("y", "x", "gate_proj", "up_proj", "down_proj")
    expected = dict(zip(names, answers(module, x_TD), strict=True))
    module.tile_rows = 5
    x_TD.requires_grad_(frozen != "input")
    for name, child in module.named_children():
        child.requires_grad_(frozen not in (name, "all"))
    y_TD = module(x_TD)
    given = []
    y_TD.grad_fn.register_hook(lambda gradients, _: given.extend(gradients))
    y_TD.backward(torch.linspace(-1, 1, y_TD.numel(), dtype=y_TD.dtype).view_as(y_TD))
    left_out = {"input": {"x"}, "all": set(names[2:])}.get(frozen, {frozen})
    for name, found in zip(names[1:], given, strict=False):
        assert (found is None) == (name in left_out), name
        if found is not None:
            torch.testing.assert_close(found, expected[name], atol=1e-12, rtol=0)


def test_gradients_of_weights_are_summed_in_float32():
    """In bfloat16 the sum over tiles of one token is off by one rounding of the whole, not by one a tile."""
    module, x_TD = layer(torch.bfloat16)
    module.tile_rows = 1
    _, _, *mine = answers(module, x_TD)
    exact, _ = layer()
    exact.load_state_dict(module.state_dict())
    _, _, *true = answers(exact, x_TD.detach().double().requires_grad_())
    module.tile_rows = 0
    _, _, *whole = answers(module, x_TD)
    for tiled, plain, right in zip(mine, whole, true, strict=True):
        assert (tiled - right).norm() <= 2 * (plain - right).norm()


def test_nothing_as_long_as_the_stream_is_kept_but_its_input():
    module, x_TD = layer()
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        tiled_swiglu(x_TD, *module.parameters(), 4)
    assert [shape for shape in kept if shape[0] == TOKENS] == [(TOKENS, WIDTH)]


def test_a_model_that_works_in_tiles_has_the_gradients_of_one_that_keeps_everything(monkeypatch):
    """Hybrid, two documents, float64; tiles of 7 tokens."""
    config = ModelConfig(hidden_size=32, intermediate_size=48, head_dim=8, vocab_size=64, window=8)
    model = Transformer(config, choose_core("dense", "cpu", torch.float64)).double()
    initialize(model, replace(config, init_std=0.3), seed=1)
    layout, tokens_T = PackedLayout.from_lengths((30, 12)), torch.arange(42)

    def gradients(kept):
        model.keep_for_backward(kept)
        total = model.loss(model(tokens_T, layout, 1e4), tokens_T.roll(-1)).total
        return torch.autograd.grad(total, list(model.parameters()))

    expected = gradients("everything")
    monkeypatch.setattr("model.transformer.TILE_ROWS", 7)
    for mine, true in zip(gradients("tiles"), expected, strict=True):
        torch.testing.assert_close(mine, true, atol=1e-12 * true.abs().max().item(), rtol=1e-10)
    assert TILE_ROWS == 8_192


def test_tiles_are_refused_where_weights_are_not_whole():
    arguments = ["experiment=quickstart", "train.keep_for_backward=tiles"]
    assert not any("tiles" in line for line in problems(compose_run(arguments), 2))
    refused = problems(compose_run([*arguments, "parallel.zero_stage=3"]), 2)
    assert any("keep_for_backward=tiles" in line for line in refused)
