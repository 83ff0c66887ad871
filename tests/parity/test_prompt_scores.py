"""A hit is what greedy decoding in float64 writes, and scores are the same under every layout.

The oracle decodes token by token in one process, without packing: every token is a forward of its own, whose rotation
is that of prompt and answer together.
"""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.prompts.fill import Prompt
from model.at_step import AtStep
from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.dynamic_ntk import DynamicNtkRope
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.mesh import arrange, start
from parallel.sequence.dealing import stream_multiple
from ranks import run_on_ranks
from tests.parity.engine_steps import CPU, small_configuration, trainer_of
from tests.parity.streams import SEED
from train.build_trainer import dealer
from train.evaluation.prompt_sets import Outline, PromptSet
from train.evaluation.prompt_streams import PromptScore, Scorer
from train.predictor import StagedPredictor

TRAINED, ANSWER, PROMPTS = 16, 4, 9
# 37 tokens: no number of ranks divides them, and the rotation turns otherwise than at the trained length.
LENGTH, STREAM = 37, 96
# Layouts whose micro-batches are shorter than a prompt.
SHORTER = ("one", "zigzag", "pipeline")
MODEL = ModelConfig(
    hidden_size=32,
    intermediate_size=24,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=40,
    attention_backend="dense",
    layer_pattern=["near", "full_rope"],
    kinds={
        "near": KindConfig(like="window_rope", window=5),
        "full_rope": KindConfig(rope=DynamicNtkRope(factor=4.0, original_length=20)),
    },
    init_std=0.4,
    tie_embeddings=False,
)
AT = replace(AtStep.of(MODEL, 10_000.0, (TRAINED,)), asked_length=LENGTH)
LAYOUTS = {
    1: {"one": ParallelConfig()},
    2: {
        "tensor": ParallelConfig(tensor=2),
        "ring": ParallelConfig(sequence=2, zero_stage=2),
        "zigzag": ParallelConfig(sequence=2, sequence_layout="zigzag"),
        "pipeline": ParallelConfig(pipeline=2),
        "sharded": ParallelConfig(zero_stage=3),
    },
    4: {
        "tensor_ring": ParallelConfig(tensor=2, sequence=2, zero_stage=3),
        "tensor_pipeline": ParallelConfig(tensor=2, pipeline=2),
        "ring_pipeline": ParallelConfig(sequence=2, pipeline=2),
        "sharded": ParallelConfig(zero_stage=3),
    },
}


def whole_model() -> Transformer:
    model = Transformer(MODEL, choose_core("dense", CPU, torch.float64))
    initialize(model, MODEL, seed=SEED)
    return model.double()


def logits_after(model: Transformer, tokens: list[int]) -> torch.Tensor:
    """The logits of the next token, float64 (V,)."""
    with torch.no_grad():
        hidden_TD = model(torch.tensor(tokens), PackedLayout.from_lengths([len(tokens)]), AT)
        return model.logits(hidden_TD)[-1]


def decoded(model: Transformer, context: list[int]) -> list[int]:
    """What greedy decoding writes after the context; the lowest id among equals."""
    made = list(context)
    for _ in range(ANSWER):
        made.append(int(logits_after(model, made).argmax()))
    return made[len(context) :]


def prompts_of(model: Transformer) -> list[Prompt]:
    """Prompts with answers that greedy decoding writes, or writes up to a wrong token at each place."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(PROMPTS):
        context = generator.integers(0, MODEL.vocab_size, LENGTH - ANSWER).tolist()
        answer = decoded(model, context)
        if number % 2:
            answer[number // 2 % ANSWER] = (answer[number // 2 % ANSWER] + 1) % MODEL.vocab_size
        ids = np.array(context + answer)
        found.append(Prompt(ids, LENGTH - ANSWER, 0, LENGTH - ANSWER, (), 0.5))
    return found


def wanted(model: Transformer, prompt: Prompt) -> PromptScore:
    """The score of a prompt: a forward for every token of its answer."""
    ranks, losses = [], []
    for place in range(prompt.answer, len(prompt.ids)):
        logits_V = logits_after(model, prompt.ids[:place].tolist())
        target = int(prompt.ids[place])
        order = sorted(range(len(logits_V)), key=lambda one: (-float(logits_V[one]), one))
        ranks.append(order.index(target))
        losses.append(float(logits_V.logsumexp(0) - logits_V[target]))
    return PromptScore(np.array(ranks), np.array(losses))


@cache
def scored(ranks: int) -> list[dict[str, list[PromptScore]]]:
    """What every rank finds under each layout of so many ranks: one world for all of them."""
    small_configuration()
    made = prompts_of(whole_model())
    prompts = PromptSet([Outline.of(one) for one in made], lambda number: made[number].ids)

    def work(_: int, world_size: int) -> dict[str, list[PromptScore]]:
        world = start(CPU, 60).world
        found = {}
        for name, parallel in LAYOUTS[ranks].items():
            mesh = arrange(world, parallel.topology(world_size))
            share = stream_multiple(parallel.sequence_layout, mesh.sequence.size)
            scorer = Scorer(
                mesh=mesh,
                deal=dealer(MODEL, mesh, parallel),
                micro_batch_tokens=TRAINED if name in SHORTER else STREAM,
                multiple=mesh.tensor.size * share,
                pad_id=0,
            )
            found[name] = scorer.scores(trainer_of(mesh, MODEL, parallel), prompts, AT)
        return found

    of_ranks: list[dict[str, list[PromptScore]]] = run_on_ranks(work, ranks)
    return of_ranks


def check(name: str, ranks: int) -> None:
    model = whole_model()
    prompts = prompts_of(model)
    truth = [wanted(model, prompt) for prompt in prompts]
    for found in scored(ranks):
        for number, (one, true) in enumerate(zip(found[name], truth, strict=True)):
            assert one.hit == (number % 2 == 0) == true.hit
            assert one.first_wrong == (ANSWER if one.hit else number // 2 % ANSWER)
            assert one.ranks.tolist() == true.ranks.tolist()
            np.testing.assert_allclose(one.losses, true.losses, rtol=1e-5)


def test_a_hit_is_what_greedy_decoding_writes() -> None:
    check("one", 1)


@pytest.mark.parametrize("name", LAYOUTS[2])
def test_a_hit_is_what_greedy_decoding_writes_on_two_ranks(name: str) -> None:
    check(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS[4])
def test_a_hit_is_what_greedy_decoding_writes_on_four_ranks(name: str) -> None:
    check(name, 4)


@pytest.mark.parametrize("rank", [0, 1])
def test_of_the_tensor_ranks_of_a_pipeline_the_first_one_counts(rank: int) -> None:
    runner: Any = SimpleNamespace(
        placement=SimpleNamespace(ranks=2), forward_only=lambda *_: ["of the last stage"]
    )
    mesh: Any = SimpleNamespace(tensor=SimpleNamespace(rank=rank))
    predictor = StagedPredictor(runner, mesh)
    for found in (predictor.predictions([], 1e4), predictor.token_losses([], 1e4)):
        assert found == (["of the last stage"] if rank == 0 else None)
