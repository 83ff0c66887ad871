"""Costs of a layout as pure integers: against models that are built, closed forms, and what the document says.

The comparison of layouts in docs/parallelism.md is `comparison()`; a changed formula changes the document.
"""

from collections import Counter
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from model.attention.core import choose_core
from model.config import ModelConfig
from model.documents import Documents
from model.flops import parameter_count
from model.layer_pattern import expand_pattern
from model.parameters import parameter_names
from model.reach import Reach
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.costs.held import (
    head_memory,
    layer_activations,
    logits_chunk,
    micro_batches_in_flight,
    model_memory,
    rank_parameters,
    ring_buffers,
    stage_activations,
    stage_parameters,
)
from parallel.costs.rank import Step, rank_memory
from parallel.costs.received import (
    Received,
    StageShape,
    hand_over_bytes,
    key_bytes,
    over_layers,
    pipeline_received,
    sequence_received,
    stages_of_rank,
    tensor_received,
    tied_received,
    whole_model,
    zero_received,
)
from parallel.engine.optimizers import OPTIMIZERS
from parallel.mesh import AxisGroup
from parallel.pipeline.placement import place_stages
from parallel.pipeline.schedule import compute_order, ideal_bubble
from parallel.pipeline.split import split_layers
from parallel.sequence.dealing import deal
from parallel.sequence.plan import needs_few_keys, plan_keys
from parallel.tensor.apply import cut_model
from parallel.tensor.cut import part_elements
from train.configuration.compose import compose_run

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "parallelism.md"
PRESETS = ("tiny", "125m", "1b", "3b", "8b")


def preset(name: str, recipe: str = "rnope_swa") -> ModelConfig:
    """A model as the command line names it."""
    return compose_run([f"model={name}", f"recipe={recipe}"]).model


@pytest.mark.parametrize("recipe", ["rnope_swa", "llama", "qk_norm"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_whole_stage_has_the_parameters_of_the_model(name: str, recipe: str) -> None:
    config = preset(name, recipe)
    assert stage_parameters(whole_model(config)) == parameter_count(config)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("name", ["1b", "8b"])
def test_a_cut_model_has_the_parameters_of_its_formula(name: str, ranks: int) -> None:
    """Built on the meta device, every tensor rank; eight ranks share the four key heads of `1b`.

    One repeat of the pattern: that every layer costs the same is the claim of the test above.
    """
    config = preset(name)
    config = replace(config, num_layers=len(config.layer_pattern))
    for rank in range(ranks):
        with torch.device("meta"):
            model = Transformer(config, choose_core("dense", "cpu", torch.float32))
        cut_model(model, AxisGroup(rank, tuple(range(ranks)), None))
        held = sum(parameter.numel() for parameter in model.parameters())
        assert held == stage_parameters(whole_model(config, tensor=ranks))


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "zbv"])
@pytest.mark.parametrize("tied", [True, False])
def test_pipeline_ranks_train_every_parameter_once(schedule: str, tied: bool) -> None:
    config = replace(preset("8b"), tie_embeddings=tied)
    parallel = ParallelConfig(pipeline=4, pipeline_schedule=schedule)
    placement, layers = place_stages(parallel), split_layers(config, parallel, 8192)
    ranks = [
        rank_parameters(stages_of_rank(config, placement, layers, rank, tensor=1, element=2))
        for rank in range(4)
    ]
    assert sum(trained for _, trained in ranks) == parameter_count(config)
    copies = 1 if tied and schedule != "zbv" else 0
    held_twice = copies * config.vocab_size * config.hidden_size
    assert sum(held for held, _ in ranks) == parameter_count(config) + held_twice


def test_one_rank_receives_nothing_on_any_axis() -> None:
    stage = whole_model(preset("tiny"))
    assert tensor_received(stage, 4096) == Received(0, 0)
    placement = place_stages(ParallelConfig())
    assert pipeline_received(placement, 0, micro_batches=4, hand_over=100) == Received(0, 0)
    assert tied_received(stage, placement, 0) == 0
    for zero_stage in (0, 1, 2, 3):
        received = zero_received(1000, ranks=1, zero_stage=zero_stage, element=2, micro_batches=2)
        assert (received.gradients, received.weights) == (0, 0)


def test_every_hand_over_has_one_receiver() -> None:
    """Over all ranks: (stages - 1) messages each way, less the one at the point of a V."""
    for schedule, messages in (("1f1b", 3), ("interleaved_1f1b", 7), ("zbv", 6)):
        placement = place_stages(ParallelConfig(pipeline=4, pipeline_schedule=schedule))
        received = [
            pipeline_received(placement, rank, micro_batches=5, hand_over=10) for rank in range(4)
        ]
        assert sum(one.forward for one in received) == messages * 50
        assert sum(one.backward for one in received) == messages * 50


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "zbv"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_micro_batches_in_flight_are_those_of_the_order_that_runs(
    schedule: str, ranks: int
) -> None:
    """Counted in the actions of every rank: a forward adds one, its backward (of weights, in a V) takes it away."""
    placement = place_stages(ParallelConfig(pipeline=ranks, pipeline_schedule=schedule))  # type: ignore[arg-type]
    for micro_batches in (ranks, 2 * ranks, 2 * ranks + 2, 5 * ranks):
        if schedule == "interleaved_1f1b" and micro_batches % (micro_batches // ranks):
            continue  # refused
        most = []
        for actions in compute_order(placement, micro_batches):
            steps = [{"F": 1, "B": -1, "W": -1, "I": 0}[action.kind] for action in actions]
            most.append(max(accumulate(steps)))
        assert micro_batches_in_flight(placement, micro_batches) == tuple(most)


def test_the_memory_of_a_rank_is_the_sum_of_its_parts() -> None:
    """8B on the layout that docs/parallelism.md starts with, and one rank that recomputes."""
    layout = ParallelConfig(tensor=4, sequence=8)
    step = Step(
        preset("8b"),
        layout,
        world_size=WORLD,
        sequence_length=STREAM,
        micro_batch_tokens=STREAM,
        batch_tokens=BATCH,
        element=2,
        keep_for_backward="everything",
        recompute_layers=None,
        optimizer=OPTIMIZERS["adamw"],
    )
    memory = rank_memory(step)
    stage, tokens = whole_model(preset("8b"), tensor=4), STREAM // 8
    keys, _ = _sequence(stage, 8, "everything")
    parts = [
        stage_activations(stage, tokens, keep_for_backward="everything", received_keys=keys),
        max(over_layers(stage, lambda spec: layer_activations(stage, spec, tokens))),
        ring_buffers(stage, tokens),
        head_memory(stage, tokens),
        4 * logits_chunk(stage, rows=(1 << 30) // (4 * 256_000)),
    ]
    assert memory.activations == sum(parts)
    assert f"{memory.model / 1e9:.1f}" == "17.8"
    alone = replace(step, layout=ParallelConfig(), world_size=1, keep_for_backward="input")
    assert rank_memory(alone).model > memory.model
    assert (
        rank_memory(replace(alone, keep_for_backward="everything")).total > rank_memory(alone).total
    )


def test_a_rank_keeps_the_keys_of_chunked_layers_only_if_they_come_in_one_exchange() -> None:
    """Ranks hold two parts of 8,192 tokens each: chunks of 8,192 need no keys, of 12,288 many, of 2,000 few."""
    step = Step(
        replace(preset("8b"), layer_pattern=["chunk_rope"]),
        ParallelConfig(sequence=8),
        world_size=8,
        sequence_length=STREAM,
        micro_batch_tokens=STREAM,
        batch_tokens=STREAM,
        element=2,
        keep_for_backward="everything",
        recompute_layers=None,
        optimizer=OPTIMIZERS["adamw"],
    )
    least = rank_memory(step).activations
    found = {}
    for chunk in (8192, 12_288, 2000):
        model = replace(step.model, chunk=chunk)
        found[chunk] = rank_memory(replace(step, model=model)).activations - least
    assert found[8192] == found[12_288] == 0
    dealing = deal("zigzag", [STREAM], 8, {Reach(chunk=2000): 32})
    plan = plan_keys(dealing, Documents.of([STREAM]), Reach(chunk=2000))
    assert needs_few_keys(plan, dealing)
    most = max(plan.tokens_received(rank) for rank in range(8))
    assert found[2000] == 32 * most * key_bytes(whole_model(step.model)) > 0


def test_memory_under_zero_adds_up_to_the_known_bytes_a_parameter() -> None:
    """bfloat16, many ranks: 2 + 6, 2, 0 bytes a parameter remain, float32 4 + 4, 4, 0; one rank holds it all."""
    numbers = {(1, 2): 8, (2, 2): 2, (3, 2): 0, (1, 4): 8, (2, 4): 4, (3, 4): 0}
    for (zero_stage, element), expected in numbers.items():
        memory = model_memory(
            (10**6, 10**6),
            optimizer=OPTIMIZERS["adamw"],
            ranks=10**6,
            zero_stage=zero_stage,
            element=element,
            bucket_elements=0,
        )
        assert round(memory.total / 10**6) == expected
    alone = model_memory(
        (10**6, 10**6),
        optimizer=OPTIMIZERS["adamw"],
        ranks=1,
        zero_stage=3,
        element=2,
        bucket_elements=0,
    )
    assert alone.total == (2 + 4 + 12) * 10**6


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_a_frozen_parameter_is_held_and_not_trained_on_the_rank_that_has_it(
    schedule: str, tied: bool
) -> None:
    config = replace(preset("tiny"), num_layers=4, tie_embeddings=tied)
    parallel = ParallelConfig(tensor=2, pipeline=2, pipeline_schedule=schedule)  # type: ignore[arg-type]
    placement, layers = place_stages(parallel), split_layers(config, parallel, 64)
    names = parameter_names(config, range(4))
    frozen = [name for name in names if name.startswith(("layers.0.", "layers.3.attention", "emb"))]
    still = 0
    for rank in range(2):
        stages = stages_of_rank(config, placement, layers, rank, tensor=2, element=2)
        held, trained = rank_parameters(stages)
        assert rank_parameters(stages, frozen)[0] == held
        still += trained - rank_parameters(stages, frozen)[1]
    assert still == sum(part_elements(name, config, 2) for name in frozen)


def test_frozen_parameters_take_weights_and_nothing_else() -> None:
    held, trained = 10**6, 10**5
    for zero_stage, element in ((0, 4), (1, 2), (1, 4), (2, 2), (3, 2)):
        memory, small = (
            model_memory(
                numbers,
                optimizer=OPTIMIZERS["adamw"],
                ranks=1,
                zero_stage=zero_stage,
                element=element,
                bucket_elements=10**9,
            )
            for numbers in ((held, trained), (trained, trained))
        )
        assert memory.total - small.total == element * (held - trained)


def test_key_heads_are_never_less_than_one() -> None:
    config = preset("1b")
    assert [key_bytes(whole_model(config, tensor=t)) for t in (1, 2, 4, 8)] == [
        2 * heads * 128 * 2 for heads in (4, 2, 1, 1)
    ]


@pytest.mark.parametrize("table", ["schedules", "comparison"])
def test_the_document_shows_these_numbers(table: str) -> None:
    text = {"schedules": schedules, "comparison": comparison}[table]()
    assert text in DOCUMENT.read_text(), f"docs/parallelism.md: put\n{text}"


def schedules() -> str:
    """Bubble, memory and messages of the three schedules on four ranks."""
    lines = []
    for name, layers in (("1f1b", 4), ("interleaved_1f1b", 8), ("zbv", 8)):
        placement = place_stages(ParallelConfig(pipeline=4, pipeline_schedule=name))
        idle = [f"{100 * ideal_bubble(placement, count):.1f} %" for count in (8, 32)]
        assert micro_batches_in_flight(placement, 8) == micro_batches_in_flight(placement, 32)
        kept = " ".join(str(most) for most in micro_batches_in_flight(placement, 8))
        passed = [
            pipeline_received(placement, rank, micro_batches=1, hand_over=1) for rank in range(4)
        ]
        messages = sum(one.forward for one in passed)
        lines.append(
            f"| `{name}` | {' / '.join(idle)} | {kept} stages of L / {layers} | {messages} |"
        )
    return "\n".join(lines)


# tensor, pipeline, sequence, ZeRO stage, what layers keep.
LAYOUTS = (
    (8, 1, 1, 1, "input"),
    (8, 1, 4, 1, "everything"),
    (4, 1, 8, 1, "everything"),
    (4, 1, 2, 1, "input"),
    (2, 1, 8, 1, "everything"),
    (1, 1, 8, 3, "input"),
    (1, 1, 64, 1, "input"),
    (8, 2, 4, 1, "everything"),
)
WORLD, STREAM, BATCH = 64, 131_072, 4_194_304


def comparison() -> str:
    """Layouts of `model=8b` for one 128k document a stream on 64 GPUs: GB held, GB received in a step."""
    lines = [
        "| tensor x pipeline x sequence x data | ZeRO, kept | P on a rank | model | activations | held in all "
        "| tensor | sequence | pipeline | ZeRO |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for layout in LAYOUTS:
        rows = [_row(*layout, rank=rank) for rank in range(layout[1])]
        lines.append(max(rows)[1])
    return "\n".join(lines)


def _row(
    tensor: int, pipeline: int, sequence: int, zero_stage: int, keep: str, *, rank: int
) -> tuple[int, str]:
    """Bytes held by a rank of this pipeline coordinate, and its line."""
    config = preset("8b")
    parallel = ParallelConfig(
        tensor=tensor, pipeline=pipeline, sequence=sequence, zero_stage=zero_stage
    )
    data = WORLD // (tensor * pipeline * sequence)
    micro_batches, tokens = BATCH // STREAM // data, STREAM // sequence
    placement, layers = place_stages(parallel), split_layers(config, parallel, STREAM)
    stages = stages_of_rank(config, placement, layers, rank, tensor=tensor, element=2)
    (stage,) = stages
    held, trained = rank_parameters(stages)
    ranks = data * sequence
    memory = model_memory(
        (held, trained),
        optimizer=OPTIMIZERS["adamw"],
        ranks=ranks,
        zero_stage=zero_stage,
        element=2,
        bucket_elements=50_000_000,
    )
    keys, ring = _sequence(stage, sequence, keep)
    activations = stage_activations(
        stage, tokens, keep_for_backward=keep, received_keys=keys if keep == "everything" else 0
    )
    activations *= micro_batches_in_flight(placement, micro_batches)[rank]
    layers = over_layers(stage, lambda spec: layer_activations(stage, spec, tokens))
    activations += layers[0] if keep == "input" else 0
    activations += head_memory(stage, tokens) + (ring_buffers(stage, tokens) if sequence > 1 else 0)
    total = memory.total + activations
    cut = tensor_received(stage, tokens, recomputed=keep == "input") * micro_batches
    passed = pipeline_received(
        placement, rank, micro_batches=micro_batches, hand_over=hand_over_bytes(stage, tokens)
    )
    over_stages = passed.total + tied_received(stage, placement, rank)
    reduced = zero_received(
        trained, ranks=ranks, zero_stage=zero_stage, element=2, micro_batches=micro_batches
    )
    figures = [trained, memory.total, activations, total, cut.total]
    figures += [ring.total * micro_batches, over_stages, reduced.gradients + reduced.weights]
    cells = " | ".join(f"{figure / 1e9:.1f}" for figure in figures)
    name = f"{tensor} x {pipeline} x {sequence} x {data}"
    return total, f"| {name} | {zero_stage}, {keep} | {cells} |"


def _sequence(stage: StageShape, ranks: int, keep: str) -> tuple[int, Received]:
    """Keys that layers keep, and bytes a micro-batch, of the middle rank for one document."""
    layers_of_reach = Counter(spec.reach for spec in expand_pattern(stage.config))
    held = Counter(expand_pattern(stage.config)[layer].reach for layer in stage.layers)
    dealing = deal("zigzag", [STREAM], ranks, layers_of_reach)
    kept, received = 0, Received()
    for reach, layers in held.items():
        plan, rank = plan_keys(dealing, Documents.of([STREAM]), reach), ranks // 2
        kept += layers * plan.tokens_received(rank) if reach.window is not None else 0
        received += (
            sequence_received(
                stage, plan, rank, in_steps=reach.window is None, recomputed=keep == "input"
            )
            * layers
        )
    return kept, received
