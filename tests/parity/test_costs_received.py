"""The formulas of docs/parallelism.md against the bytes that real runs receive.

Bytes on the wire are counted below everything else, where torch hands a collective to the network, so nothing that
a rank receives can be forgotten: formulas must give the same number, to the byte.
"""

from copy import deepcopy
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from model.documents import Documents
from model.layer_pattern import KindConfig, expand_pattern, layer_kinds
from model.reach import Reach
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.costs.held import (
    rank_parameters,
    ring_buffers,
)
from parallel.costs.received import (
    Received,
    hand_over_bytes,
    key_bytes,
    key_gradient_bytes,
    pipeline_received,
    sequence_received,
    stages_of_rank,
    tensor_received,
    tied_received,
    whole_model,
)
from parallel.mesh import start
from parallel.parallelize import finish
from parallel.pipeline.placement import place_stages
from parallel.pipeline.runner import PipelineRunner
from parallel.pipeline.split import split_layers
from parallel.sequence.plan import plan_keys
from parallel.sequence.traffic import TrafficMeter
from ranks import run_on_ranks
from tests.parity.cost_cases import (
    BASE,
    CPU,
    LENGTHS,
    MODEL,
    MODELS,
    NAMES,
    TOKENS,
    built,
    micro_batch,
)
from tests.parity.received_bytes import ReceivedBytes
from train.objective import MicroBatch

SHORT = (4, 3, 5) * (TOKENS // 12)
KEEPS = ("everything", "input")


def run_counted(model: Transformer, batch: MicroBatch, keep: str) -> Received:
    """Bytes received in one forward, loss included, and one backward."""
    model.keep_for_backward(keep)
    with ReceivedBytes() as forward:
        total = model.loss(model(batch.tokens_T, batch.layout, BASE), batch.targets_T).total
    with ReceivedBytes() as backward:
        total.backward()
    return Received(forward.total, backward.total)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_tensor_ranks_receive_what_the_formula_says(name: str, ranks: int) -> None:
    config, parallel = MODELS[name], ParallelConfig(tensor=ranks)

    def work(rank: int, world_size: int) -> list[Received]:
        mesh = start(CPU, 60, parallel.topology(world_size))
        local = built(config, mesh, parallel)
        finish(local, mesh)
        batch = micro_batch(config, mesh, parallel)
        return [run_counted(local.stages[0], batch, keep) for keep in KEEPS]

    stage = whole_model(config, tensor=ranks, element=4)
    expected = [tensor_received(stage, TOKENS, recomputed=keep == "input") for keep in KEEPS]
    assert run_on_ranks(work, ranks) == [expected] * ranks


@pytest.mark.parametrize(
    ("tensor", "ranks", "layout"), [(1, 2, "zigzag"), (1, 4, "balanced"), (2, 2, "contiguous")]
)
def test_sequence_ranks_receive_what_the_formula_says(tensor: int, ranks: int, layout: str) -> None:
    """By the meter, and with the other axis by the count below it.

    A document of 70 tokens makes ring steps; short ones are exchanged, whatever the layer. Layers in attention chunks
    of 25 tokens do the one or the other, by the number of keys that they need.
    """
    config = replace(
        MODEL,
        num_layers=5,
        layer_pattern=["window_rope", "full_nope", "near", "full_nope", "part"],
        kinds={
            "near": KindConfig(like="window_nope", window=3),
            "part": KindConfig(like="chunk_rope", chunk=25),
        },
    )
    parallel = ParallelConfig(sequence=ranks, tensor=tensor, sequence_layout=layout)

    def work(rank: int, world_size: int) -> list[Any]:
        mesh, meter = start(CPU, 60, parallel.topology(world_size)), TrafficMeter()
        local = built(config, mesh, parallel, torch.bfloat16, meter)
        finish(local, mesh)
        found = []
        for lengths, keep in product((LENGTHS, SHORT), KEEPS):
            batch = micro_batch(config, mesh, parallel, lengths)
            meter.reset()
            counted = run_counted(local.stages[0], batch, keep)
            steps = {kind: bool(route.steps) for kind, route in batch.layout.routes.items()}
            found.append((lengths, keep, batch.layout.dealing, steps, counted, deepcopy(meter)))
        return [found, local.stages[0].layers["1"].attention.core.without_window.buffers.num_rows]

    stage, tokens = whole_model(config, tensor=tensor, element=2), TOKENS // ranks
    for rank, (found, rows) in enumerate(run_on_ranks(work, tensor * ranks)):
        for lengths, keep, dealing, steps, counted, met in found:
            of_part = plan_keys(dealing, Documents.of(lengths), Reach(chunk=25))
            most = max(of_part.tokens_received(one) for one in range(ranks))
            assert steps == {
                "window_rope": False,
                "full_nope": lengths == LENGTHS,
                "near": False,
                "part": 4 * most > tokens,
            }
            by_kind = dict.fromkeys(layer_kinds(config), Received())
            for spec in expand_pattern(config):
                by_kind[spec.kind] += sequence_received(
                    stage,
                    plan_keys(dealing, Documents.of(lengths), spec.reach),
                    rank // tensor,
                    in_steps=steps[spec.kind],
                    recomputed=keep == "input",
                )
            assert {kind: met.of(kind) for kind in by_kind} == {
                kind: received.total for kind, received in by_kind.items()
            }
            expected = sum(by_kind.values(), Received())
            cut = tensor_received(stage, tokens, recomputed=keep == "input")
            assert counted == expected + cut
        held = sum(
            rows_held * (key_bytes(stage) if slot.startswith("keys") else key_gradient_bytes(stage))
            for slot, rows_held in rows.items()
        )
        assert 0 < held <= ring_buffers(stage, tokens)


def loss_of(last: Transformer, hidden_TD: Tensor, batch: MicroBatch) -> Tensor:
    """What the last stage differentiates."""
    return last.loss(hidden_TD, batch.targets_T).total


PIPELINES = [("1f1b", 2, 1, 4), ("interleaved_1f1b", 2, 1, 4), ("zbv", 2, 1, 4), ("1f1b", 2, 2, 2)]


@pytest.mark.parametrize(("schedule", "ranks", "tensor", "micro_batches"), PIPELINES)
def test_pipeline_ranks_receive_what_the_formula_says(
    schedule: str, ranks: int, tensor: int, micro_batches: int
) -> None:
    config = replace(MODEL, num_layers=5)
    parallel = ParallelConfig(pipeline=ranks, pipeline_schedule=schedule, tensor=tensor)
    placement, layers = place_stages(parallel), split_layers(config, parallel, TOKENS)

    def work(rank: int, world_size: int) -> Any:
        mesh = start(CPU, 60, parallel.topology(world_size))
        local = built(config, mesh, parallel)
        parameters, tied = finish(local, mesh)
        runner = PipelineRunner(local.stages, placement, mesh, lambda _: tied.collect())
        batch = [micro_batch(config, mesh, parallel)] * micro_batches
        runner.forward_backward(batch, BASE, loss_of)  # torch's first step greets the neighbours
        with ReceivedBytes() as passing:
            runner.forward_backward(batch, BASE, loss_of)
        with ReceivedBytes() as following:
            embedding = local.stages[0].embedding
            tied.add_gradient(getattr(getattr(embedding, "weight", None), "grad", None))
            tied.follow()
        trained = sum(p.numel() for p in parameters.named.values())
        unique = {p for stage in local.stages for p in stage.parameters()}
        numbers = sum(p.numel() for p in unique), trained
        return passing.by_operation["recv_"], following.total, numbers

    for rank, (passed, followed, numbers) in enumerate(run_on_ranks(work, ranks * tensor)):
        place = rank // tensor
        stages = stages_of_rank(config, placement, layers, place, tensor=tensor, element=4)
        hand_over = hand_over_bytes(stages[0], TOKENS)
        expected = pipeline_received(
            placement, place, micro_batches=micro_batches, hand_over=hand_over
        )
        assert passed == expected.total
        assert followed == tied_received(stages[0], placement, place)
        assert numbers == rank_parameters(stages)
