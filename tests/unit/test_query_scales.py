"""Scaled queries of a whole model against dense attention whose scores are multiplied by the written-out formula."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.at_step import AtStep
from model.attention.core import choose_core
from model.attention.dense import DenseCore
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.positioning import LearnedScale, scale_queries
from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.methods import AnyScale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.reach import Reach
from model.transformer import Transformer

BASE, SEED, LENGTH, WINDOW = 100.0, 3, 64, 4
LENGTHS = (5, 1, 17, 3, 14)
MODEL = ModelConfig(
    num_layers=3,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=40,
    window=WINDOW,
    layer_pattern=["window_rope", "full_nope", "full_rope"],
)
KINDS = tuple(MODEL.layer_pattern)
# Each formula as its source writes it, for the token at position p that sees n keys.
FORMULAS = {
    Llama4Scale: lambda p, _: 1 + 0.3 * math.log(1 + (p + 1) // 4),
    Ministral3Scale: lambda p, _: 1 + 0.3 * math.log(1 + p // 4),
    SwanScale: lambda p, _: math.log(5 + p) / math.log(5),
    SsmaxScale: lambda _, n: math.log(n),
    DropeScale: lambda _, __: 1 + 0.4 * math.log(LENGTH / 16),
}
SCALES: tuple[AnyScale, ...] = (
    Llama4Scale(0.3, 4),
    Ministral3Scale(0.3, 4),
    SwanScale(5.0),
    SsmaxScale(0.6),
    DropeScale(16, 0.4),
)


def with_scale(scale: AnyScale, kinds: tuple[str, ...] = KINDS) -> ModelConfig:
    return replace(MODEL, kinds={kind: KindConfig(position_scale=scale) for kind in kinds})


class ScaledScores(DenseCore):
    """Dense attention whose scores are multiplied, row by row and head by head, by `factors_TH[reach]`."""

    def __init__(self, factors_TH: dict[Reach, Tensor]) -> None:
        super().__init__()
        self.factors_TH = factors_TH

    def __call__(self, q_THK: Tensor, *others: Any) -> Tensor:
        reach = others[3]
        return super().__call__(q_THK * self.factors_TH[reach][..., None], *others)


def outputs_and_gradients(
    model: Transformer, weights: list[Tensor], at: AtStep
) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    layout = PackedLayout.from_lengths(LENGTHS)
    tokens_T = torch.arange(layout.num_tokens) * 7 % MODEL.vocab_size
    hidden_TD = model(tokens_T, layout, at)
    upstream_TD = torch.randn(
        hidden_TD.shape, generator=torch.Generator().manual_seed(SEED), dtype=hidden_TD.dtype
    )
    (hidden_TD * upstream_TD).sum().backward()
    own = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if "position_scale" not in name
    }
    return hidden_TD.detach(), own, [weight.grad for weight in weights]


@pytest.mark.parametrize("backend", ["dense", "banded"])
@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.scale)
def test_outputs_and_all_gradients_are_those_of_scaled_scores(
    scale: AnyScale, backend: str
) -> None:
    config = with_scale(scale)
    model = Transformer(config, choose_core(backend, "cpu", torch.float64)).double()
    initialize(model, config, SEED)
    learned = [module.weight for module in model.modules() if isinstance(module, LearnedScale)]
    with torch.no_grad():
        for layer, weight in enumerate(learned):
            weight.copy_(torch.linspace(-0.5, 1.0, 4) + layer)
    at = AtStep.of(config, BASE, (16, LENGTH))
    found = outputs_and_gradients(model, learned, at)

    places = [place for length in LENGTHS for place in range(length)]
    formula = FORMULAS[type(scale)]
    by_window = {
        window: torch.tensor(
            [formula(p, min(p + 1, window or p + 1)) for p in places], dtype=torch.float64
        )
        for window in (WINDOW, None)
    }
    plain = Transformer(MODEL, DenseCore()).double()
    initialize(plain, MODEL, SEED)
    weights = [weight.detach().clone().requires_grad_() for weight in learned]
    for layer, window in enumerate((WINDOW, None, None)):
        factors_TH = by_window[window][:, None].expand(-1, 4)
        if weights:
            factors_TH = factors_TH * weights[layer]
        plain.layers[str(layer)].attention.core = ScaledScores({Reach(window): factors_TH})
    expected = outputs_and_gradients(plain, weights, AtStep.of(MODEL, BASE))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def hidden(config: ModelConfig, weight: float = 0.0, lengths: tuple[int, ...] = ()) -> Tensor:
    """Hidden states of a model whose learned scales are all `weight`."""
    model = Transformer(config, DenseCore()).double()
    initialize(model, config, SEED)
    layout = PackedLayout.from_lengths(LENGTHS)
    tokens_T = torch.arange(layout.num_tokens) * 7 % MODEL.vocab_size
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LearnedScale):
                module.weight.fill_(weight)
        return model(tokens_T, layout, AtStep.of(config, BASE, lengths))


def test_a_factor_of_one_changes_no_bit() -> None:
    plain = hidden(MODEL)
    for scale in (Llama4Scale(0.3, 100), Ministral3Scale(0.3, 100)):
        assert torch.equal(hidden(with_scale(scale)), plain)
    assert torch.equal(hidden(with_scale(DropeScale(16)), lengths=(16,)), plain)


def test_scalable_softmax_is_softmax_where_s_ln_n_is_one() -> None:
    """One windowed layer: every token whose window is full sees the same number of keys."""
    scaled = replace(with_scale(SsmaxScale(), KINDS[:1]), num_layers=1, layer_pattern=[KINDS[0]])
    found = hidden(scaled, weight=1.0 / math.log(WINDOW))
    plain = hidden(replace(scaled, kinds={}))
    full_T = PackedLayout.from_lengths(LENGTHS).positions_T >= WINDOW - 1
    torch.testing.assert_close(found[full_T], plain[full_T], atol=1e-14, rtol=0)
    assert not torch.isclose(found[~full_T], plain[~full_T]).all()


@pytest.mark.parametrize("scale", [SsmaxScale(), Llama4Scale(0.3, 4)], ids=["ssmax", "llama4"])
def test_a_window_as_long_as_the_document_is_full_attention(scale: AnyScale) -> None:
    both = {kind: KindConfig(position_scale=scale) for kind in ("window_nope", "full_nope")}
    windowed, full = (
        replace(MODEL, window=max(LENGTHS), layer_pattern=[kind], kinds={kind: both[kind]})
        for kind in both
    )
    assert torch.equal(hidden(windowed, 0.5), hidden(full, 0.5))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_factors_of_a_bfloat16_model_are_float32(compiled: bool) -> None:
    """The scaled queries are those of the exact factors, rounded once."""
    generator = torch.Generator().manual_seed(SEED)
    q_THK = torch.randn(6, 4, 8, generator=generator).bfloat16()
    factors_T = torch.linspace(1.001, 2.003, 6)
    module = LearnedScale(4)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(0.999, 1.003, 4))
    given = [scale_queries, module]
    scaled, learned = ((torch.compile(f) if compiled else f)(q_THK, factors_T) for f in given)
    assert scaled.dtype == learned.dtype == torch.bfloat16
    exact_TH1 = (factors_T[:, None] * module.weight)[..., None].detach()
    assert torch.equal(scaled, (q_THK.float() * factors_T[:, None, None]).bfloat16())
    assert torch.equal(learned, (q_THK.float() * exact_TH1).bfloat16())
