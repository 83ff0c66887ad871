"""Models, streams and stages whose costs the parity tests compare with the formulas."""

from dataclasses import replace

import pytest
import torch

from data.batch import PackedBatch
from data.packing.spans import starts_of
from model.attention.core import choose_core
from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ssmax import SsmaxScale
from parallel.config import ParallelConfig
from parallel.mesh import Mesh
from parallel.parallelize import LocalModel, build_local
from parallel.sequence.traffic import TrafficMeter
from parallel.tensor.apply import initialise_cut
from tests.parity.streams import part_of_rank
from train.objective import MicroBatch, to_device

CPU = torch.device("cpu")
BASE = 1e4
# 120 tokens: what each of 2 or 4 tensor ranks holds does not divide into the pieces that travel.
LENGTHS = (1, 70, 8, 41)
TOKENS = sum(LENGTHS)
MODEL = ModelConfig(
    num_layers=3,
    hidden_size=24,
    intermediate_size=40,
    num_heads=8,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=60,
    window=9,
    layer_pattern=["window_rope", "full_nope"],
    attention_backend="banded",
)
LLAMA = replace(
    MODEL,
    block="sequential",
    norm="rmsnorm",
    qk_norm=True,
    tie_embeddings=False,
    num_kv_heads=1,
    layer_pattern=["window_rope", "chunk_nope"],
    chunk=25,
    # Queries of one kind are scaled by given numbers, those of the other by learned ones.
    kinds={
        "window_rope": KindConfig(position_scale=Llama4Scale(floor_scale=8)),
        "chunk_nope": KindConfig(position_scale=SsmaxScale()),
    },
)
# Forms of attention in one kind of layer, and another form or none in the other.
GATED = replace(
    MODEL,
    qk_norm=True,
    qk_norm_at="after",
    gate="sigmoid",
    gate_over="channel",
    kinds={
        "window_rope": KindConfig(sinks=True, gate="softplus", gate_over="head", value_scale=0.7),
        "full_nope": KindConfig(qk_norm_weight=False),
    },
)
NORMED = replace(
    LLAMA,
    qk_norm_over="projection",
    gate="softplus",
    gate_over="channel",
    kinds={
        "window_rope": KindConfig(qk_norm_at="after", qk_norm_weight=False, gate="sigmoid"),
        "chunk_nope": KindConfig(gate_over="head"),
    },
)
# Weights of its own for every head: after a LayerNorm in both kinds, after an RMSNorm in one of two.
HEADED = replace(MODEL, qk_norm=True, qk_norm_over="each_head")
HEADED_LLAMA = replace(
    LLAMA,
    qk_norm_over="each_head",
    kinds={**LLAMA.kinds, "chunk_nope": KindConfig(qk_norm_weight=False)},
)
MODELS = {
    "cohere": MODEL,
    "llama": LLAMA,
    "gated": GATED,
    "normed": NORMED,
    "headed": HEADED,
    "headed_llama": HEADED_LLAMA,
}
# Names for `parametrize`: what one form of norms alone changes is run under the marker `slow`.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith("headed") else ())
    for name in MODELS
]


def built(
    config: ModelConfig,
    mesh: Mesh,
    parallel: ParallelConfig,
    dtype: torch.dtype = torch.float32,
    meter: TrafficMeter | None = None,
) -> LocalModel:
    """This rank's stages with parameters, as a run makes them."""
    core = choose_core(config.attention_backend, CPU, dtype)
    local = build_local(
        config, core, mesh, parallel, sequence_length=TOKENS, traffic=meter or TrafficMeter()
    )
    for stage in local.stages:
        stage.to_empty(device="cpu")
        for name, parameter in stage.named_parameters():
            initialise_cut(name, parameter.data, config, 0, mesh.tensor)
        stage.to(dtype)
    return local


def micro_batch(
    config: ModelConfig, mesh: Mesh, parallel: ParallelConfig, lengths: tuple[int, ...] = LENGTHS
) -> MicroBatch:
    """This rank's part of a stream of documents of these lengths."""
    tokens_T = torch.arange(TOKENS) * 7 % config.vocab_size
    stream = PackedBatch(tokens_T, tokens_T.roll(-1), lengths, starts_of(lengths), TOKENS, 0, ())
    return to_device(part_of_rank(stream, config, mesh, parallel), CPU)
