"""Compiled regions and kept attention: the same numbers as a plain model, and less work.

The compiler's own code generation is left out (`aot_eager`): what is proved is that the regions are cut where they
may be, with every gradient, under each way of keeping activations.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from model.at_step import AtStep
from model.attention.packed import PackedCore
from model.attention.segments import BandedSegments
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig, evenly
from model.long_ce import ShortContext
from model.packed_layout import PackedLayout
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ssmax import SsmaxScale
from model.recompute import RUNNERS
from model.regions import compile_regions
from model.transformer import Transformer

SHAPE = {"num_layers": 4, "hidden_size": 24, "intermediate_size": 40, "num_heads": 6, "head_dim": 8}
RECIPES = {
    "parallel": {
        "sinks": True,
        "gate": "sigmoid",
        "gate_over": "channel",
        "kinds": {"full_nope": KindConfig(position_scale=SsmaxScale())},
    },
    "sequential": {
        "block": "sequential",
        "norm": "rmsnorm",
        "qk_norm": True,
        "gate": "softplus",
        "value_scale": 0.7,
        "kinds": {
            "window_rope": KindConfig(
                qk_norm_at="after", position_scale=Llama4Scale(floor_scale=4)
            ),
        },
    },
}
LENGTHS = (1, 30, 16, 17)


class CountedSegments(BandedSegments):
    """Counts what is asked of the kernel."""

    def __init__(self):
        super().__init__()
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


def step(model, lengths=LENGTHS, at=10_000.0):
    """Loss and every gradient."""
    tokens_T = torch.arange(sum(lengths)) % 50
    layout = PackedLayout.from_lengths(lengths)
    model.zero_grad()
    total = model.loss(model(tokens_T, layout, at), tokens_T.roll(-1), 1e-3).total
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def step_of_trained(model):
    """Gradients where some parameters have none."""
    tokens_T = torch.arange(sum(LENGTHS)) % 50
    hidden_TD = model(tokens_T, PackedLayout.from_lengths(LENGTHS), 1e4)
    model.loss(hidden_TD, tokens_T.roll(-1), 1e-3).total.backward()


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
    assert kernel.forwards == (4 if keep in ("everything", "attention") else 8)
    assert kernel.backwards == 4


def test_some_layers_keep_little_and_the_others_everything():
    plain = step(model_of("parallel", BandedSegments()))
    kernel = CountedSegments()
    model = model_of("parallel", kernel)
    model.keep_for_backward("input", 3)
    total, gradients = step(model)
    assert torch.equal(total, plain[0])
    assert all(torch.equal(gradients[name], found) for name, found in plain[1].items())
    assert kernel.forwards == 4 + 3
    assert [sorted(evenly(n, 8)) for n in (0, 1, 3, 8)] == [[], [7], [2, 5, 7], list(range(8))]


@pytest.mark.parametrize("recipe", RECIPES)
def test_compiled_regions_give_the_gradients_of_plain_ones(compiler, recipe):
    streams = [LENGTHS, (*LENGTHS, 9), (70,)]
    model = model_of(recipe, BandedSegments())
    plain = [step(model, lengths) for lengths in streams]
    compile_regions(model)
    for keep in ("everything", "attention", "input"):
        model.keep_for_backward(keep)
        for lengths, (total, gradients) in zip(streams, plain, strict=True):
            found = step(model, lengths)
            torch.testing.assert_close(found[0], total, atol=1e-12, rtol=1e-14)
            for name, gradient in gradients.items():
                torch.testing.assert_close(found[1][name], gradient, atol=1e-12, rtol=0)
    # Before, of a rotary layer and of another, after, and the loss; once more for any other length.
    assert compiler.frame_count <= 2 * 4


def test_lengths_of_evaluations_leave_the_code_of_training_as_it_is(monkeypatch):
    """Nothing is compiled anew for training, and what is compiled later is for its one length: no size is a symbol."""

    torch._dynamo.reset()
    compiler = CompileCounterWithBackend("eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiler))

    def evaluate(length):
        with torch.no_grad():
            tokens_T = torch.arange(length) % 50
            model(tokens_T, PackedLayout.from_lengths((length,)), 1e4)

    def sizes():
        return [
            node
            for graph in compiler.graphs
            for node in graph.graph.nodes
            if node.op == "placeholder" and isinstance(node.meta.get("example_value"), torch.SymInt)
        ]

    config = ModelConfig(**SHAPE | {"num_layers": 2}, num_kv_heads=2, vocab_size=50, window=7)
    model = Transformer(config, PackedCore(BandedSegments()))
    initialize(model, config, 1)
    compile_regions(model)
    step(model)
    of_training = compiler.frame_count
    for length in (40, 77, 64):
        evaluate(length)
    compiled, symbols = compiler.frame_count, len(sizes())
    assert symbols, "evaluations share code for any length"
    assert compiled - of_training <= 2 * 2, "of one length, then of any"
    step(model)
    assert compiler.frame_count == compiled
    model.layers["0"].requires_grad_(False)  # code of its own from here on
    step_of_trained(model)
    assert compiler.frame_count > compiled
    assert len(sizes()) == symbols


@pytest.mark.slow
def test_long_ce_has_the_gradients_of_a_model_that_is_not_compiled(compiler):
    """The forward without gradients before each step, with fewer keys, compiles nothing of the step itself anew."""
    tokens_T, layout = torch.arange(64) % 50, PackedLayout.from_lengths((1, 30, 16, 17))

    def long_ce_step(model):
        at = AtStep.of(model.config, 10_000.0)
        with torch.no_grad():
            short = model(tokens_T, layout, replace(at, keys_at_most=5))
            losses_T = model.token_losses(short, tokens_T.roll(-1))
        model.zero_grad()
        hidden_TD = model(tokens_T, layout, at)
        weights = ShortContext(losses_T, cap=1.01)
        model.loss(hidden_TD, tokens_T.roll(-1), 1e-3, weights).total.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    model = model_of("parallel", BandedSegments())
    plain = long_ce_step(model)
    compile_regions(model)
    for _ in range(2):
        for name, gradient in long_ce_step(model).items():
            torch.testing.assert_close(gradient, plain[name], atol=1e-12, rtol=0)
        frames = compiler.frame_count
    assert long_ce_step(model) and compiler.frame_count == frames


def test_windows_and_bases_that_change_every_step_compile_nothing_anew(compiler):
    model = model_of("parallel", BandedSegments())
    compile_regions(model)

    def at(window, base, **changes):
        kinds = model.config.kinds
        changed = {
            name: replace(kinds.get(name, KindConfig()), window=window + number, **changes)
            for number, name in enumerate(("full_nope", "window_rope"))
        }
        return AtStep.of(replace(model.config, kinds=kinds | changed), base)

    step(model, at=at(3, 100.0))
    compiled = compiler.frame_count
    for window in range(4, 12):
        step(model, at=at(window, 100.0 + window))
    assert compiler.frame_count == compiled
    # Without rotation the region before attention is another one, once.
    for window in range(4, 6):
        step(model, at=at(window, 100.0, position="none"))
    assert compiler.frame_count <= compiled + 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_frozen_and_trained_layers_in_training_and_evaluation_are_all_compiled(compiler, recipe):
    """Only the third layer trains: those below need no gradient, that above passes one on."""
    model = model_of(recipe, BandedSegments())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layers.2."))
    plain = [steps_of_trained(model, lengths) for lengths in (LENGTHS, (9, 70))]
    compile_regions(model)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for lengths, expected in zip((LENGTHS, (9, 70)), plain, strict=True):
            found = steps_of_trained(model, lengths)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, atol=1e-12, rtol=1e-12)


def steps_of_trained(model, lengths):
    """Losses without gradients, and every gradient that there is."""
    tokens_T = torch.arange(sum(lengths)) % 50
    layout = PackedLayout.from_lengths(lengths)
    with torch.no_grad():
        losses_T = model.token_losses(model(tokens_T, layout, 1e4), tokens_T.roll(-1))
    model.zero_grad()
    total = model.loss(model(tokens_T, layout, 1e4), tokens_T.roll(-1), 1e-3).total
    total.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"losses": losses_T, "total": total.detach(), **gradients}
