"""Compiled regions and kept attention: the same numbers as a plain model, and less work.

The compiler's own code generation is left out (`aot_eager`): what is proved is that the regions are cut where they
may be, with every gradient, under each way of keeping activations.
"""

from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.attention_packed import PackedCore
from model.attention_segments import BandedSegments
from model.config import ModelConfig
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.recompute import RUNNERS
from model.regions import compile_regions
from model.transformer import Transformer

SHAPE = {"num_layers": 8, "hidden_size": 24, "intermediate_size": 40, "num_heads": 6, "head_dim": 8}
RECIPES = {
    "parallel": {},
    "sequential": {"block": "sequential", "norm": "rmsnorm", "qk_norm": True},
}
LENGTHS = (1, 30, 16, 17)


class CountedSegments(BandedSegments):
    """Counts what is asked of the kernel."""

    def __init__(self):
        self.forwards = self.backwards = 0

    def forward(self, *arguments):
        self.forwards += 1
        return super().forward(*arguments)

    def backward(self, *arguments):
        self.backwards += 1
        return super().backward(*arguments)


def model_of(recipe, kernel, dtype=torch.float64):
    config = ModelConfig(**SHAPE, num_kv_heads=2, vocab_size=50, window=7, **RECIPES[recipe])
    model = Transformer(config, PackedCore(kernel))
    initialize(model, config, 1)
    return model.to(dtype)


def step(model, lengths=LENGTHS):
    """Loss and every gradient."""
    tokens_T = torch.arange(sum(lengths)) % 50
    layout = PackedLayout.from_lengths(lengths)
    model.zero_grad()
    total = model.loss(model(tokens_T, layout, 10_000.0), tokens_T.roll(-1), 1e-3).total
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture
def compiler(monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    return counter


@pytest.mark.parametrize("keep", RUNNERS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_kept_changes_no_gradient_and_only_full_recomputation_attends_twice(recipe, keep):
    plain = step(model_of(recipe, BandedSegments()))
    kernel = CountedSegments()
    model = model_of(recipe, kernel)
    model.keep_for_backward(keep)
    total, gradients = step(model)
    assert torch.equal(total, plain[0])
    assert all(torch.equal(gradients[name], found) for name, found in plain[1].items())
    assert kernel.forwards == (8 if keep in ("everything", "attention") else 16)
    assert kernel.backwards == 8


@pytest.mark.parametrize("keep", ["everything", "attention", "input"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_compiled_regions_give_the_gradients_of_plain_ones(compiler, recipe, keep):
    model = model_of(recipe, BandedSegments())
    plain, plain_longer = step(model), step(model, (*LENGTHS, 9))
    compile_regions(model)
    model.keep_for_backward(keep)
    for (total, gradients), found in (
        (plain, step(model)),
        (plain_longer, step(model, (*LENGTHS, 9))),
    ):
        torch.testing.assert_close(found[0], total, atol=1e-12, rtol=1e-14)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[1][name], gradient, atol=1e-12, rtol=0)
    # Before, of a rotary layer and of another, after, and the loss; once more for another length.
    assert compiler.frame_count <= 2 * 4


def test_a_third_length_compiles_nothing_more(compiler):
    model = model_of("parallel", BandedSegments())
    compile_regions(model)
    step(model)
    step(model, (*LENGTHS, 9))
    known = compiler.frame_count
    step(model, (*LENGTHS, 9, 5))
    step(model, (100,))
    assert compiler.frame_count == known
