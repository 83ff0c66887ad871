"""How parameters are cut: parts make the whole, heads stay with their queries, one owner each."""

import math
from dataclasses import replace

import numpy as np
import pytest

from model.config import ModelConfig
from model.parameters import parameter_names, shape_of
from parallel.tensor.cut import cut_of, tensor_problems

CONFIG = ModelConfig(
    hidden_size=20,
    intermediate_size=24,
    num_heads=24,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=48,
    qk_norm=True,
    tie_embeddings=False,
)
SIZES = [(1, 2), (2, 2), (4, 2), (8, 2), (3, 3), (3, 1), (4, 4), (4, 1), (2, 6)]


@pytest.mark.parametrize(("size", "heads"), SIZES)
def test_parts_of_the_owners_make_the_whole(size: int, heads: int) -> None:
    config = replace(CONFIG, num_kv_heads=heads)
    for name in parameter_names(config, range(config.num_layers)):
        shape = shape_of(name, config)
        full = np.arange(math.prod(shape)).reshape(shape)
        cuts = [cut_of(name, config, rank, size) for rank in range(size)]
        owned = [full[cut.part(shape)] for cut in cuts if cut.is_owner]
        assert np.array_equal(np.concatenate(owned, axis=cuts[0].dim), full), name
        assert all(cut.full_shape(tuple(full[cut.part(shape)].shape)) == shape for cut in cuts)
        assert {(cut.parts, cut.replicas) for cut in cuts} == {(len(owned), size // len(owned))}
        assert cuts[0].is_owner


@pytest.mark.parametrize(("size", "heads"), SIZES)
def test_a_rank_holds_the_key_heads_of_its_query_heads(size: int, heads: int) -> None:
    config = replace(CONFIG, num_kv_heads=heads)
    name = "layers.0.attention.{}_proj.weight"
    queries_per_key = config.num_heads // heads
    for rank in range(size):
        q, k, v = (cut_of(name.format(which), config, rank, size) for which in "qkv")
        query_heads = np.arange(config.num_heads)[q.part((config.num_heads,))]
        key_heads = np.arange(heads)[k.part((heads,))]
        repeats = len(query_heads) // len(key_heads)
        assert np.array_equal(query_heads // queries_per_key, key_heads.repeat(repeats))
        assert k == v


def test_what_cannot_be_cut_is_said_with_its_value() -> None:
    assert tensor_problems(CONFIG, 2) == []
    assert tensor_problems(replace(CONFIG, num_kv_heads=1), 8) == []
    problems = tensor_problems(replace(CONFIG, vocab_size=50, num_kv_heads=3), 4)
    assert len(problems) == 2
    assert any("model.vocab_size=50" in p for p in problems)
    assert any("model.num_kv_heads=3" in p for p in problems)
