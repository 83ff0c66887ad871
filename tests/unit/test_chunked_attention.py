"""Chunked attention is full attention over documents cut every `chunk` tokens: masks, cores, counts, settings."""

import itertools

import pytest
import torch

from model.attention.dense import DenseCore, visible_TS
from model.attention.packed import PackedCore
from model.attention.segments import BandedSegments
from model.config import ModelConfig
from model.documents import Documents
from model.flops import score_pairs
from model.huggingface.catalogue import BY_TYPE, family_for
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import KindConfig, expand_pattern
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.pipeline.balance import layer_costs
from train.configuration.compose import compose_run
from train.configuration.validate import warnings
from train.schedule.stages import build_schedule, rotary_reach

ZOO = ([1], [1, 1, 1], [16, 17, 15], [70, 1, 130], [300, 1, 32, 64])
REACHES = (
    Reach(chunk=1),
    Reach(chunk=2),
    Reach(chunk=16),
    Reach(chunk=65),
    Reach(window=7, chunk=16),
    Reach(window=40, chunk=33),
)


def visible_by_the_rule(lengths: list[int], chunk: int) -> torch.Tensor:
    """Key k of query q of the same document is visible if k <= q and floor(k / C) = floor(q / C) (Llama 4)."""
    seen = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool)
    start = 0
    for length in lengths:
        for q, k in itertools.product(range(length), repeat=2):
            seen[start + q, start + k] = k <= q and k // chunk == q // chunk
        start += length
    return seen


def run(core, layout: PackedLayout, reach: Reach) -> list[torch.Tensor]:
    """Output and all gradients, with sinks."""
    generator = torch.Generator().manual_seed(3)
    q, k, v, do = (
        torch.randn(layout.num_tokens, n, 8, generator=generator, dtype=torch.float64)
        for n in (4, 2, 2, 4)
    )
    sinks = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (q, k, v, sinks)]
    out = core(*leaves[:3], layout, reach, leaves[3])
    return [out.detach(), *torch.autograd.grad(out, leaves, do)]


@pytest.mark.parametrize("chunk", [1, 2, 5, 16, 1000])
def test_the_mask_is_the_rule_written_out(chunk):
    for lengths in ZOO[:3]:
        mask = visible_TS(PackedLayout.from_lengths(lengths), Reach(chunk=chunk))
        assert torch.equal(mask, visible_by_the_rule(lengths, chunk))


def test_golden_chunks_of_two_documents():
    mask = visible_TS(PackedLayout.from_lengths([5, 3]), Reach(chunk=2)).int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("reach", REACHES, ids=str)
def test_banded_equals_dense_in_float64(reach):
    for lengths in ZOO:
        layout = PackedLayout.from_lengths(lengths)
        pairs = zip(
            *(run(core, layout, reach) for core in (PackedCore(BandedSegments()), DenseCore())),
            strict=True,
        )
        for ours, oracle in pairs:
            torch.testing.assert_close(ours, oracle, atol=1e-12, rtol=0)
        assert score_pairs(lengths, reach) == int(visible_TS(layout, reach).sum())


@pytest.mark.parametrize(
    "core", [PackedCore(BandedSegments()), DenseCore()], ids=["banded", "dense"]
)
def test_a_chunk_as_long_as_the_longest_document_is_full_attention_bit_by_bit(core):
    layout = PackedLayout.from_lengths([70, 1, 130])
    for chunk in (130, 131, 10_000):
        for ours, full in zip(
            run(core, layout, Reach(chunk=chunk)), run(core, layout, Reach()), strict=True
        ):
            assert torch.equal(ours, full)


def test_chunks_are_documents_of_their_own_bit_by_bit():
    core, lengths, reach = PackedCore(BandedSegments()), (70, 1, 130), Reach(chunk=48)
    assert reach.cut(lengths) == (48, 22, 1, 48, 48, 34)
    pieces = PackedLayout.from_lengths(reach.cut(lengths))
    whole = PackedLayout.from_lengths(lengths)
    for ours, alone in zip(run(core, whole, reach), run(core, pieces, Reach()), strict=True):
        assert torch.equal(ours, alone)


def test_layers_of_one_reach_share_segments():
    core, layout = PackedCore(BandedSegments()), PackedLayout.from_lengths([30, 50])
    for chunk in (20, 20, 50, 60):
        run(core, layout, Reach(chunk=chunk))
    assert core._segments[layout].keys() == {Reach(chunk=20), Reach()}


def test_a_documents_last_chunk_may_be_short_and_empty_documents_have_none():
    assert Reach(chunk=4).cut((8, 9, 0, 3)) == (4, 4, 4, 4, 1, 3)
    assert Reach(chunk=4).cut_documents(Documents.of((5,))).starts == (0, 4, 5)
    assert Reach(9).cut((8, 9)) == (8, 9)
    assert [reach.limit for reach in (Reach(), Reach(3), Reach(3, 2), Reach(3, 5))] == [
        None,
        3,
        2,
        3,
    ]


def test_chunks_are_resolved_by_kind_and_reported_together():
    config = ModelConfig(
        num_layers=5,
        chunk=64,
        layer_pattern=["chunk_rope", "chunk_nope", "part", "full_nope", "window_rope"],
        kinds={"part": KindConfig(like="chunk_nope", chunk=7), "chunk_nope": KindConfig(chunk=9)},
    )
    assert config.problems() == []
    specs = expand_pattern(config)
    assert [spec.chunk for spec in specs] == [64, 9, 7, None, None]
    assert [spec.rope is None for spec in specs] == [False, True, True, True, False]
    assert [spec.reported_as for spec in specs] == ["chunk", "chunk", "part", "full", "window"]


def test_a_chunk_without_effect_is_refused_and_no_kind_is_called_chunk():
    kinds = {
        "full_rope": KindConfig(chunk=5),
        "chunk": KindConfig(like="chunk_rope"),
        "chunk_rope": KindConfig(),
    }
    config = ModelConfig(num_layers=3, layer_pattern=list(kinds), kinds=kinds)
    assert config.problems() == [
        "model.kinds.full_rope.chunk=5: has no effect, full_rope has no chunks; drop it",
        "model.kinds.chunk: a kind's name is made of letters, digits, _ and -, and is not full, window or chunk; "
        "use another",
    ]


def test_rotation_reaches_no_farther_than_the_chunk_and_stages_are_balanced_by_it():
    config = ModelConfig(
        chunk=100, layer_pattern=["chunk_rope", "full_nope", "chunk_nope"], num_layers=3
    )
    assert [rotary_reach(config, length) for length in (64, 100, 4096)] == [64, 100, 100]
    rotated, full, unrotated = layer_costs(config, 1000)
    # 10 chunks of 100 tokens against one document of 1,000; 4 H K operations a pair.
    assert full - rotated == 4 * 4 * 32 * (500_500 - 10 * 5050)
    assert rotated == unrotated


def test_chunks_that_mask_nothing_and_models_that_no_family_writes_are_warned_of():
    run = compose_run(
        ["schedule=small", "model.layer_pattern=[chunk_rope,full_nope]", "model.chunk=20000"]
    )
    schedule, mistakes = build_schedule(run)
    assert schedule is not None, mistakes
    found = warnings(run, schedule)
    assert any(
        line.startswith("attention chunks of 20,000 tokens in chunk_rope layers mask nothing")
        for line in found
    )
    assert [line for line in found if "Hugging Face" in line] == [
        "no Hugging Face family takes attention chunks (model.layer_pattern=[chunk_rope]): ropewalk export will refuse "
        "this model"
    ]


def test_export_refuses_attention_chunks_in_one_line_by_the_name_of_the_kind():
    kinds = {"part": KindConfig(like="chunk_rope", chunk=7)}
    model = ModelConfig(layer_pattern=["part", "full_nope", "chunk_nope"], kinds=kinds)
    says = "model.layer_pattern has part, chunk_nope: no family here has attention chunks"
    for write in (lambda: family_for(model, 1e4), lambda: BY_TYPE["llama"].write(model, 1e4, 64)):
        with pytest.raises(CannotExpress) as refused:
            write()
        assert refused.value.reasons == [says]
