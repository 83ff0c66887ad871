"""Initial weights follow from seed and name alone."""

import math

import pytest
import torch

from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize, initialize_parameter
from model.transformer import Transformer


def built(config, seed=0, **parts):
    with torch.device("meta"):
        model = Transformer(config, choose_core("banded", "cpu", torch.float32), **parts)
    model.to_empty(device="cpu")
    initialize(model, config, seed)
    return model


def test_a_stage_starts_as_its_part_of_the_whole():
    config = ModelConfig()
    whole = built(config).state_dict()
    first = built(config, layer_indices=[0, 1], has_head=False).state_dict()
    last = built(config, layer_indices=[2, 3], has_embedding=False).state_dict()
    assert torch.equal(last.pop("lm_head.weight"), whole["embedding.weight"])
    assert {**first, **last}.keys() == whole.keys()
    for name, value in {**first, **last}.items():
        assert torch.equal(value, whole[name]), name


def test_a_submodule_can_be_filled_alone():
    config = ModelConfig()
    whole = built(config)
    layer = built(config, seed=9).layers["2"]
    initialize(layer, config, 0, prefix="layers.2")
    for name, value in layer.state_dict().items():
        assert torch.equal(value, whole.state_dict()[f"layers.2.{name}"]), name


def test_an_untied_head_is_its_own():
    state = built(ModelConfig(tie_embeddings=False)).state_dict()
    assert not torch.equal(state["lm_head.weight"], state["embedding.weight"])


def test_seed_and_name_matter_and_nothing_else_does():
    config = ModelConfig()
    torch.manual_seed(123)
    one = built(config).state_dict()
    torch.manual_seed(456)
    assert all(torch.equal(value, one[name]) for name, value in built(config).state_dict().items())
    other = built(config, seed=1).state_dict()
    assert not torch.equal(other["embedding.weight"], one["embedding.weight"])
    assert not torch.equal(
        one["layers.0.attention.q_proj.weight"], one["layers.1.attention.q_proj.weight"]
    )


def test_the_ambient_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    built(ModelConfig())
    assert torch.equal(torch.rand(1), expected)


def test_deviations_and_norms():
    config = ModelConfig(init_std=0.05, qk_norm=True, block="sequential", num_layers=8)
    small = 0.05 / math.sqrt(16)
    for name, value in built(config).named_parameters():
        if "norm" in name:
            assert torch.equal(value, torch.ones_like(value)), name
        else:
            expected = small if "o_proj" in name or "down_proj" in name else 0.05
            # The deviation of n values is known to about 1 / sqrt(2 n); four of those.
            tolerance = 4 / math.sqrt(2 * value.numel())
            assert value.std().item() == pytest.approx(expected, rel=tolerance), name


def test_other_dtypes_hold_the_same_values():
    config = ModelConfig()
    wide = torch.empty(64, 64, dtype=torch.float64)
    narrow = torch.empty(64, 64, dtype=torch.bfloat16)
    for tensor in (wide, narrow):
        initialize_parameter("layers.0.attention.q_proj.weight", tensor, config, 3)
    assert torch.equal(wide.bfloat16(), narrow)


def test_meta_tensors_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"norm\.weight.*to_empty"):
        initialize_parameter("norm.weight", torch.empty(3, device="meta"), ModelConfig(), 0)
