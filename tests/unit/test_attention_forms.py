"""Forms of attention against the formula written out, their golden values, and what they are with weights of 0."""

from dataclasses import replace
from math import log

import pytest
import torch

from model.at_step import AtStep
from model.attention.core import choose_core
from model.attention.gate import gated
from model.attention.layer import Attention
from model.attention.sinks import with_sinks
from model.config import ModelConfig
from model.initialization import initialize
from model.kind_at_step import make_kinds
from model.layer_pattern import KindConfig, layer_kinds
from model.packed_layout import PackedLayout
from model.position.rotation import rotate
from model.transformer import Transformer

LENGTHS = (1, 30, 9)
TOKENS = sum(LENGTHS)
CONFIG = ModelConfig(
    num_layers=4,
    hidden_size=12,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=40,
    window=7,
    query_scale=1.5,
)
BASE, GATES = 100.0, {"sigmoid": torch.sigmoid, "softplus": lambda z: (1 + z.exp()).log()}


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def layer_of(config: ModelConfig, kind: str = "window_rope"):
    """One attention layer in float64 with drawn weights, and what it is given."""
    layer = Attention(
        config, layer_kinds(config)[kind], choose_core("dense", "cpu", torch.float64)
    ).double()
    for parameter in layer.parameters():
        parameter.data = random(*parameter.shape)
    layout = PackedLayout.from_lengths(LENGTHS)
    at = AtStep.of(config, BASE)
    return layer, layout, make_kinds(at, [kind], layout, config, torch.float64)[kind]


def model_of(config: ModelConfig) -> Transformer:
    model = Transformer(config, choose_core("banded", "cpu", torch.float64)).double()
    initialize(model, config, 1)
    return model


def output(model: Transformer) -> torch.Tensor:
    tokens_T = torch.arange(TOKENS) * 7 % CONFIG.vocab_size
    return model(tokens_T, PackedLayout.from_lengths(LENGTHS), BASE)


@pytest.mark.parametrize("over", ["head", "channel"])
@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_its_formula_in_output_and_gradients(gate: str, over: str) -> None:
    layer, layout, at = layer_of(replace(CONFIG, gate=gate, gate_over=over))
    x_TD = random(TOKENS, 12).requires_grad_()
    q_THK, k_TGK, v_TGK, _ = layer.positioned(x_TD, at.positioning)
    o_THK = layer.core(q_THK, k_TGK, v_TGK, layout, at.reach)
    weight = (layer.gate_proj if over == "channel" else layer.head_gate_proj).weight
    gate_THK = GATES[gate](x_TD @ weight.t()).view(TOKENS, 4, -1)
    expected_TD = (o_THK * gate_THK).reshape(TOKENS, -1) @ layer.o_proj.weight.t()
    found_TD = layer(x_TD, layout, at)
    torch.testing.assert_close(found_TD, expected_TD, atol=1e-12, rtol=1e-12)
    leaves, upstream_TD = (x_TD, *layer.parameters()), random(TOKENS, 12)
    ours = torch.autograd.grad(found_TD, leaves, upstream_TD)
    theirs = torch.autograd.grad(expected_TD, leaves, upstream_TD)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-12)


@pytest.mark.parametrize(("gate", "part"), [("sigmoid", 0.5), ("softplus", log(2.0))])
@pytest.mark.parametrize("over", ["head", "channel"])
def test_with_weights_of_zero_a_gate_lets_a_constant_part_through(
    gate: str, part: float, over: str
) -> None:
    """Half exactly, or ln 2: the plain model whose o_proj is multiplied by it."""
    config = replace(CONFIG, gate=gate, gate_over=over)
    model, plain = model_of(config), model_of(CONFIG)
    for name, parameter in model.named_parameters():
        if "gate_proj" in name and "attention" in name:
            parameter.data.zero_()
    for name, parameter in plain.named_parameters():
        if "o_proj" in name:
            parameter.data *= part
    difference = (output(model) - output(plain)).abs().max()
    assert difference == 0.0 if part == 0.5 else difference < 1e-14


@pytest.mark.parametrize("over", ["head", "channel"])
@pytest.mark.parametrize("gate", GATES)
def test_a_gate_in_bfloat16_rounds_no_more_than_the_plain_formula(gate: str, over: str) -> None:
    o_TD, z_TW = random(50, 32).bfloat16(), random(50, 32 if over == "channel" else 4).bfloat16()
    found_TD = gated(o_TD, z_TW, gate)
    exact_TD = gated(o_TD.double(), z_TW.double(), gate)
    plain_TD = o_TD * GATES[gate](z_TW).repeat_interleave(32 // z_TW.shape[1], dim=1)
    assert found_TD.dtype == torch.bfloat16
    assert (found_TD - exact_TD).norm() <= 2 * (plain_TD - exact_TD).norm()


def test_a_sink_multiplies_a_softmax_by_sigmoid_of_log_sum_exp_minus_it() -> None:
    """docs/numerics.md: four scores and a sink of 0.7."""
    z = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    sink = torch.tensor([0.7], dtype=torch.float64)
    lse = z.logsumexp(0)
    weights_THK = z.softmax(0)[None, None]  # the values are unit vectors
    found_THK, joined_TH = with_sinks(weights_THK, lse[None, None], sink)
    golden = torch.tensor([0.1327536, 0.0296213, 0.5949603, 0.0805191], dtype=torch.float64)
    torch.testing.assert_close(found_THK[0, 0], golden, atol=5e-8, rtol=0)
    assert float((lse - sink).sigmoid()) == pytest.approx(0.8378544, abs=5e-8)
    torch.testing.assert_close(weights_THK * (lse - sink).sigmoid(), found_THK)
    torch.testing.assert_close(joined_TH[0], torch.cat([z, sink]).logsumexp(0, keepdim=True))


def test_sinks_so_low_that_they_take_nothing_leave_the_model_as_it_is() -> None:
    """Kinds with sinks beside one without; with a sink of 0 the output is another."""
    config = replace(CONFIG, kinds={"window_rope": KindConfig(sinks=True)})
    model = model_of(config)
    sinks = {name: p for name, p in model.named_parameters() if "sinks" in name}
    assert set(sinks) == {f"layers.{layer}.attention.sinks.weight" for layer in (0, 1, 2)}
    assert not torch.allclose(output(model), output(model_of(CONFIG)))
    for parameter in sinks.values():
        parameter.data.fill_(-800.0)
    assert torch.equal(output(model), output(model_of(CONFIG)))


def normed(x: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + CONFIG.norm_eps).sqrt() * weight


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("over", ["head", "each_head", "projection"])
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("learned", [True, False])
def test_queries_and_keys_are_normalised_where_the_configuration_says(
    place: str, over: str, learned: bool, share: float
) -> None:
    kinds = {"window_rope": KindConfig()}
    kinds["window_rope"].rope.rotary_share = share
    settings = {"qk_norm": True, "qk_norm_at": place, "qk_norm_over": over, "norm": "rmsnorm"}
    config = replace(CONFIG, kinds=kinds, qk_norm_weight=learned, **settings)
    layer, _, at = layer_of(config)
    x_TD = random(TOKENS, 12)
    q_THK, k_TGK, _, _ = layer.positioned(x_TD, at.positioning)
    for found, proj, name, scale in (
        (q_THK, layer.q_proj, "q", config.query_scale),
        (k_TGK, layer.k_proj, "k", 1.0),
    ):
        middle = {"each_head": "heads_", "projection": "projection_"}.get(over, "")
        weight = getattr(layer, f"{name}_{middle}norm").weight if learned else 1.0
        heads = (TOKENS, -1, 8)

        def by_head_or_all(x_THK, weight=weight, heads=heads):
            x = x_THK.flatten(-2) if over == "projection" else x_THK
            return normed(x, weight).view(heads)

        x_THK = (x_TD @ proj.weight.t()).view(heads)
        if place == "before":
            expected = rotate(by_head_or_all(x_THK), at.positioning.rotation)
        else:
            expected = by_head_or_all(rotate(x_THK, at.positioning.rotation))
        torch.testing.assert_close(found, expected * scale, atol=1e-12, rtol=0)
    assert any("norm" in name for name, _ in layer.named_parameters()) == learned


def test_values_are_scaled_in_their_kind_alone() -> None:
    kinds = {"window_rope": KindConfig(value_scale=0.5)}
    model, plain = model_of(replace(CONFIG, kinds=kinds)), model_of(CONFIG)
    for layer in (0, 1, 2):
        plain.layers[str(layer)].attention.v_proj.weight.data *= 0.5
    assert torch.equal(output(model), output(plain))
