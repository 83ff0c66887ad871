"""Counts against the real modules, brute force, and the published figures."""

import itertools
from dataclasses import replace

import pytest
import torch

from model.attention.core import choose_core
from model.attention.dense import visible_TS
from model.config import ModelConfig
from model.flops import (
    count_forward,
    forward_flops,
    matmul_parameters,
    parameter_count,
    products_per_token,
    score_pairs,
    total_score_pairs,
    training_flops,
)
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.parameters import parameter_names
from model.reach import Reach
from model.transformer import Transformer

HYBRID_8B = ModelConfig(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=256000,
    window=4096,
)
FULL_8B = replace(HYBRID_8B, layer_pattern=["full_rope"])


def module_parameters(config):
    with torch.device("meta"):
        model = Transformer(config, choose_core("dense", "cpu", torch.float32))
    return sum(p.numel() for p in model.parameters())


def test_layers_with_and_without_a_parameter_are_counted_by_kind():
    config = replace(FULL_8B, num_layers=3, layer_pattern=["full_rope", "full_nope"])
    sinks = replace(config, kinds={"full_rope": KindConfig(sinks=True)})
    assert parameter_count(sinks) == parameter_count(config) + 2 * 32 == module_parameters(sinks)


def test_the_published_8b_shape():
    assert parameter_count(HYBRID_8B) == 8_028_033_024
    assert module_parameters(HYBRID_8B) == 8_028_033_024


@pytest.mark.parametrize(
    ("block", "norm", "qk_norm", "tied"),
    list(
        itertools.product(
            ("parallel", "sequential"), ("layernorm", "rmsnorm"), (False, True), (False, True)
        )
    ),
)
def test_closed_form_equals_the_module(block, norm, qk_norm, tied):
    # A head dimension that is not hidden / heads, so the two cannot be confused.
    config = ModelConfig(
        block=block, norm=norm, qk_norm=qk_norm, tie_embeddings=tied, head_dim=24, num_kv_heads=1
    )
    assert parameter_count(config) == module_parameters(config)


@pytest.mark.parametrize("window", [None, 1, 4, 7, 8, 100])
def test_score_pairs_equal_the_mask(window):
    lengths = [1, 7, 8, 9, 30]
    mask = visible_TS(PackedLayout.from_lengths(lengths), Reach(window))
    assert score_pairs(lengths, Reach(window)) == mask.sum().item()


@pytest.mark.parametrize(
    ("length", "share_full", "share_hybrid", "ratio", "pair_ratio"),
    [
        (8192, 0.118, 0.098, 1.023, 0.8125),
        (32768, 0.349, 0.186, 1.250, 0.4258),
        (65536, 0.517, 0.267, 1.517, 0.3408),
        (131072, 0.682, 0.388, 1.922, 0.2961),
        (262144, 0.811, 0.539, 2.434, 0.2733),
    ],
)
def test_the_published_table_of_full_against_hybrid(
    length, share_full, share_hybrid, ratio, pair_ratio
):
    full, hybrid = count_forward(FULL_8B, [length]), count_forward(HYBRID_8B, [length])
    # Half a unit of the last printed digit.
    assert full.attention / full.total == pytest.approx(share_full, abs=5e-4)
    assert hybrid.attention / hybrid.total == pytest.approx(share_hybrid, abs=5e-4)
    assert full.total / hybrid.total == pytest.approx(ratio, abs=5e-4)
    pairs = total_score_pairs(HYBRID_8B, [length]) / total_score_pairs(FULL_8B, [length])
    assert pairs == pytest.approx(pair_ratio, abs=1e-4)


def test_the_formula_by_hand():
    config = ModelConfig(
        num_layers=4,
        hidden_size=6,
        intermediate_size=10,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        vocab_size=50,
        window=3,
    )
    weights = 4 * (6 * 32 + 2 * 6 * 16 + 32 * 6 + 3 * 6 * 10) + 50 * 6
    assert matmul_parameters(config) == weights
    # Documents of 5 and 2: windowed 1 + 2 + 3 + 3 + 3 and 1 + 2, full 15 and 3.
    pairs = 3 * (12 + 3) + 1 * (15 + 3)
    assert total_score_pairs(config, [5, 2]) == pairs
    assert training_flops(config, [5, 2]) == 6 * weights * 7 + 12 * 4 * 8 * pairs
    assert forward_flops(config, [5, 2]) * 3 == training_flops(config, [5, 2])


def test_an_untied_input_embedding_costs_memory_but_no_products():
    untied = replace(HYBRID_8B, tie_embeddings=False)
    assert parameter_count(untied) - parameter_count(HYBRID_8B) == 256000 * 4096
    assert training_flops(untied, [4096]) == training_flops(HYBRID_8B, [4096])


def test_packing_short_documents_costs_less_than_one_long_one():
    assert training_flops(FULL_8B, [64] * 128) < training_flops(FULL_8B, [8192])
    assert count_forward(FULL_8B, [64] * 128).dense == count_forward(FULL_8B, [8192]).dense


def test_training_with_frozen_weights_counts_only_gradients_that_are_made() -> None:
    config = ModelConfig(num_layers=3, layer_pattern=["full_nope"], tie_embeddings=False)
    names = parameter_names(config, range(3))
    lengths, tokens = [5, 2], 7
    a_layer = products(config, [name for name in names if name.startswith("layers.0.")])
    head = products(config, ["lm_head.weight"])
    scores = 4 * config.num_heads * config.head_dim * (5 * 6 // 2 + 2 * 3 // 2)
    forward = 2 * tokens * (3 * a_layer + head) + 3 * scores

    def trains(*prefixes: str) -> int:
        frozen = [name for name in names if not name.startswith(prefixes)]
        return training_flops(config, lengths, frozen)

    assert trains("") == training_flops(config, lengths) == 3 * forward
    # The last layer alone: its own weights and inputs, and the input of the frozen head.
    assert trains("layers.2.") == forward + 2 * tokens * (2 * a_layer + head) + 2 * scores
    # The first layer alone: the gradients of inputs pass all layers, weights that are frozen have none.
    assert trains("layers.0.") == forward + 2 * tokens * (4 * a_layer + head) + 2 * 3 * scores
    assert trains("lm_head") == forward + 2 * tokens * 2 * head
    assert trains("embedding") == forward + 2 * tokens * (3 * a_layer + head) + 2 * 3 * scores


def products(config: ModelConfig, names: list[str]) -> int:
    return sum(products_per_token(name, config) for name in names)
