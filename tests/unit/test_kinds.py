"""A model of several reaches and rotations is its layers one after the other, each by itself."""

from dataclasses import replace

import pytest
import torch

from model.at_step import AtStep
from model.attention.core import choose_core
from model.attention.dense import DenseCore, visible_TS
from model.block import build_block
from model.config import ModelConfig
from model.flops import count_forward, total_score_pairs
from model.initialization import initialize
from model.kind_at_step import KindAtStep, make_kinds
from model.layer_pattern import KindConfig, expand_pattern
from model.packed_layout import PackedLayout
from model.position.linear import LinearRope
from model.position.positioning import Positioning
from model.position.rope import UNSCALED
from model.position.rotation import make_rotation
from model.reach import Reach
from model.transformer import Transformer

BASE, SEED = 1000.0, 3
LENGTHS = (1, 30, 9)
FAR = LinearRope(factor=2.0)
MODEL = ModelConfig(
    num_layers=5,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=40,
    layer_pattern=["near", "wide", "full_nope", "window_rope", "part"],
    window=9,
    kinds={
        "near": KindConfig(like="window_rope", window=5),
        "wide": KindConfig(like="window_rope", window=17, rope=FAR),
        "part": KindConfig(like="chunk_rope", chunk=7),
    },
)
# By hand: reach and rotation of each layer.
LAYERS = (
    (Reach(5), UNSCALED),
    (Reach(17), FAR),
    (Reach(), None),
    (Reach(9), UNSCALED),
    (Reach(chunk=7), UNSCALED),
)


def built(core):
    model = Transformer(MODEL, core).double()
    initialize(model, MODEL, SEED)
    return model


def by_hand(model, tokens_T, layout):
    """Every layer built for one kind alone, with the weights of the model's, over dense attention."""
    x_TD = model.embedding(tokens_T)
    for index, (reach, rope) in enumerate(LAYERS):
        # A layer has the reach that it is given in the forward.
        alone = replace(MODEL, layer_pattern=["full_rope" if rope else "full_nope"], kinds={})
        layer = build_block(alone, expand_pattern(alone)[0], DenseCore()).double()
        rotation = rope and make_rotation(
            layout.positions_T, BASE, head_dim=8, dtype=torch.float64, rope=rope
        )
        weights = model.layers[str(index)]
        parameters = dict(weights.named_parameters())
        x_TD = torch.func.functional_call(
            layer, parameters, (x_TD, layout, KindAtStep(reach, Positioning(rotation or None)))
        )
    return model.norm(x_TD)


@pytest.mark.parametrize("backend", ["dense", "banded"])
def test_outputs_and_gradients_are_those_of_layers_built_one_by_one(backend):
    model = built(choose_core(backend, "cpu", torch.float64))
    layout = PackedLayout.from_lengths(LENGTHS)
    tokens_T = torch.arange(sum(LENGTHS)) * 7 % MODEL.vocab_size
    upstream_TD = torch.randn(
        sum(LENGTHS), 16, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64
    )
    found = []
    for run in (lambda: model(tokens_T, layout, BASE), lambda: by_hand(model, tokens_T, layout)):
        model.zero_grad()
        hidden_TD = run()
        (hidden_TD * upstream_TD).sum().backward()
        found.append([hidden_TD.detach(), *(p.grad.clone() for p in model.parameters())])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)


def test_attention_flops_count_every_kind_with_its_reach():
    layout = PackedLayout.from_lengths(LENGTHS)
    pairs = sum(int(visible_TS(layout, reach).sum()) for reach, _ in LAYERS)
    assert total_score_pairs(MODEL, LENGTHS) == pairs
    assert count_forward(MODEL, LENGTHS).attention == 4 * 4 * 8 * pairs


def test_kinds_that_turn_alike_share_a_rotation_and_nope_has_none():
    model = built(DenseCore())
    at = AtStep.of(model.config, BASE)
    layout = PackedLayout.from_lengths(LENGTHS)
    found = make_kinds(at, list(at.specs), layout, MODEL, torch.float64)
    rotations = {name: kind.positioning.rotation for name, kind in found.items()}
    assert rotations["near"] is rotations["window_rope"] is not rotations["wide"]
    assert rotations["full_nope"] is None
