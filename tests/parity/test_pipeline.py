"""A pipeline gives the loss and every gradient of one process, and its engine the same steps.

Oracle: the whole model on one process, one `backward` a micro-batch. Gradients in float64, before
DeepSpeed, which has none; then three optimizer steps in float32 against plain AdamW.

Streams are hostile: another document table in every micro-batch, documents of length 1 and as long as the
stream, windows that cross nothing, one micro-batch without a single label.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import schedules

from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, start
from parallel.pipeline.placement import place_stages
from parallel.pipeline.runner import PipelineRunner, unnoted_waits
from parallel.pipeline.split import split_layers
from parallel.pipeline.tied import TiedWeight
from parallel.topology import Topology
from ranks import run_on_ranks

CPU = torch.device("cpu")
TOKENS = 24
# Seven layers: no number of stages here divides them; the last one is windowed.
MODEL = ModelConfig(
    num_layers=7,
    hidden_size=16,
    intermediate_size=24,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    vocab_size=37,
    window=5,
    qk_norm=True,
)
LENGTHS = [(24,), (1, 1, 15, 7), (10, 14), (3, 20, 1), (12, 12), (2,) * 12, (23, 1), (8, 16)]
ROPE_BASE, Z_LOSS = 1e3, 1e-3


@dataclass(frozen=True)
class Stream:
    """A micro-batch."""

    tokens_T: Tensor
    targets_T: Tensor
    layout: PackedLayout


def stream(number: int, tokens: int = TOKENS) -> Stream:
    generator = torch.Generator().manual_seed(number)
    tokens_T = torch.randint(0, MODEL.vocab_size, (tokens,), generator=generator)
    lengths = LENGTHS[number % len(LENGTHS)] if tokens == TOKENS else (tokens - 5, 5)
    layout = PackedLayout.from_lengths(lengths)
    targets_T = tokens_T.roll(-1)
    targets_T[torch.tensor(lengths).cumsum(0) - 1] = -100
    if number % 5 == 2:
        targets_T[:] = -100
    return Stream(tokens_T, targets_T, layout)


def streams(count: int, first: int = 0) -> list[Stream]:
    return [stream(first + number) for number in range(count)]


def valid_tokens(batch: list[Stream]) -> int:
    return sum(int((one.targets_T != -100).sum()) for one in batch)


def transformer(
    config: ModelConfig, dtype: torch.dtype = torch.float64, **part: Any
) -> Transformer:
    model = Transformer(config, choose_core("dense", CPU, dtype), **part).to(dtype)
    initialize(model, config, seed=0)
    return model


def one_process(config: ModelConfig, batch: list[Stream]) -> tuple[float, dict[str, Tensor]]:
    model = transformer(config)
    loss = 0.0
    for one in batch:
        hidden_TD = model(one.tokens_T, one.layout, ROPE_BASE)
        scaled = model.loss(hidden_TD, one.targets_T, Z_LOSS).total / valid_tokens(batch)
        scaled.backward()
        loss += float(scaled.detach())
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def build_stages(
    config: ModelConfig, parallel: ParallelConfig, rank: int, dtype: torch.dtype
) -> list[Transformer]:
    layers = split_layers(config, parallel, TOKENS)
    placement = place_stages(parallel)
    return [
        transformer(
            config,
            dtype,
            layer_indices=layers[stage],
            has_embedding=stage == 0,
            has_head=stage == placement.num_stages - 1,
        )
        for stage in placement.stages_of(rank)
    ]


def gradients(stages: list[Transformer], tied: TiedWeight) -> dict[str, Tensor]:
    """By name, the tied weight as one process has it: under the embedding's name, both uses together."""
    named = {
        n: p for stage in stages for n, p in stage.named_parameters() if p is not tied.follower
    }
    embedding = named.get("embedding.weight")
    tied.add_gradient(None if embedding is None else embedding.grad)
    assert all(p.grad is not None for p in named.values())
    found = {n: p.grad for n, p in named.items() if p.grad is not None}
    if stages[0].config.tie_embeddings:
        found.pop("lm_head.weight", None)
    return found


def pipeline_step(
    config: ModelConfig,
    parallel: ParallelConfig,
    batches: list[list[Stream]],
    *,
    data: int = 1,
    keep: str = "everything",
) -> tuple[list[float], list[dict[str, Tensor]]]:
    """Loss and gradients of every batch, run one after the other by the same runner."""

    def work(rank: int, world_size: int) -> Any:
        mesh = start(CPU, 60, Topology(pipeline=parallel.pipeline, data=data))
        placement = place_stages(parallel)
        stages = build_stages(config, parallel, mesh.pipeline.rank, torch.float64)
        for stage in stages:
            stage.keep_for_backward(keep)
        tied = TiedWeight(stages, placement, mesh)
        runner = PipelineRunner(stages, placement, mesh, lambda _: tied.collect())
        results = []
        for batch in batches:
            losses = []

            def loss_of(
                last: Transformer,
                hidden_TD: Tensor,
                one: Stream,
                scale: float = 1 / valid_tokens(batch),
                losses: list[float] = losses,
            ) -> Tensor:
                scaled = last.loss(hidden_TD, one.targets_T, Z_LOSS).total * scale
                losses.append(float(scaled.detach()))
                return scaled

            for stage in stages:
                stage.zero_grad()
            runner.forward_backward(batch[mesh.data.rank :: data], ROPE_BASE, loss_of)
            results.append((sum(losses), over_data(gradients(stages, tied), mesh)))
        return results

    everyone = run_on_ranks(work, parallel.pipeline * data)
    losses = [sum(ranks[number][0] for ranks in everyone) for number in range(len(batches))]
    merged: list[dict[str, Tensor]] = [{} for _ in batches]
    for ranks in everyone:
        for number, (_, named) in enumerate(ranks):
            merged[number] |= named
    return losses, merged


def over_data(named: dict[str, Tensor], mesh: Mesh) -> dict[str, Tensor]:
    if mesh.data.size > 1:
        for gradient in named.values():
            dist.all_reduce(gradient, group=mesh.zero.group)
    return {name: gradient.clone() for name, gradient in named.items()}


def assert_same(
    config: ModelConfig, batch: list[Stream], loss: float, found: dict[str, Tensor]
) -> None:
    expected_loss, expected = one_process(config, batch)
    # Sums over micro-batches and stages in another order: some hundred roundings of 1e-16.
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-10, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}"
        )


CASES = {
    "1f1b of 2, tied": (2, "1f1b", (), 4, {"tie_embeddings": True}),
    "1f1b of 4, head alone": (4, "1f1b", (2, 1, 4, 0), 5, {"tie_embeddings": False}),
    "1f1b of 4, tied, as many micro-batches as ranks": (4, "1f1b", (), 4, {}),
    "interleaved of 2, tied": (2, "interleaved_1f1b", (), 4, {"norm": "rmsnorm"}),
    "interleaved of 2, three stages a rank": (
        2,
        "interleaved_1f1b",
        (1, 1, 2, 1, 1, 1),
        6,
        {"tie_embeddings": False, "block": "sequential"},
    ),
    "zbv of 2, tied": (2, "zbv", (), 5, {}),
    "zbv of 2, untied, head alone": (2, "zbv", (3, 1, 3, 0), 8, {"tie_embeddings": False}),
    "zbv of 2, one micro-batch": (2, "zbv", (), 1, {"block": "sequential"}),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_equal_one_process(case: str) -> None:
    ranks, schedule, split, micro_batches, changes = CASES[case]
    config = replace(MODEL, **changes)
    parallel = ParallelConfig(
        pipeline=ranks, pipeline_schedule=schedule, pipeline_split=list(split)
    )
    batch = streams(micro_batches)
    losses, found = pipeline_step(config, parallel, [batch])
    assert_same(config, batch, losses[0], found[0])


@pytest.mark.parametrize(("schedule", "layers"), [("interleaved_1f1b", 8), ("zbv", 8)])
def test_eight_stages_on_four_ranks_beside_two_data_ranks(schedule: str, layers: int) -> None:
    config = replace(MODEL, num_layers=layers)
    parallel = ParallelConfig(pipeline=4, pipeline_schedule=schedule)
    batch = streams(8)
    losses, found = pipeline_step(config, parallel, [batch], data=2)
    assert_same(config, batch, losses[0], found[0])


def test_recomputed_layers_change_nothing() -> None:
    parallel = ParallelConfig(pipeline=2)
    batch = streams(3)
    kept = pipeline_step(MODEL, parallel, [batch])
    recomputed = pipeline_step(MODEL, parallel, [batch], keep="input")
    assert kept[0] == recomputed[0]
    assert all(torch.equal(recomputed[1][0][name], kept[1][0][name]) for name in kept[1][0])


@pytest.mark.parametrize("schedule", ["1f1b", "zbv"])
def test_length_and_number_of_micro_batches_may_change_from_step_to_step(schedule: str) -> None:
    parallel = ParallelConfig(pipeline=2, pipeline_schedule=schedule)
    batches = [streams(3), [stream(n, tokens=40) for n in (3, 4)], streams(3, first=5), streams(5)]
    losses, found = pipeline_step(MODEL, parallel, batches)
    for batch, loss, named in zip(batches, losses, found, strict=True):
        assert_same(MODEL, batch, loss, named)


@pytest.mark.parametrize(("schedule", "most"), [("1f1b", 1), ("interleaved_1f1b", 4), ("zbv", 2)])
def test_receive_buffers_are_those_of_micro_batches_in_flight(schedule: str, most: int) -> None:
    """torch's own stage keeps them for every micro-batch of the step, here 12 to 24 a rank."""
    parallel = ParallelConfig(pipeline=2, pipeline_schedule=schedule)

    def work(rank: int, world_size: int) -> tuple[int, int]:
        mesh = start(CPU, 60, Topology(pipeline=2))
        held: list[int] = []
        runner = PipelineRunner(
            build_stages(MODEL, parallel, rank, torch.float64),
            place_stages(parallel),
            mesh,
            lambda _: held.append(live_buffers(runner)),
        )
        runner.forward_backward(streams(12), ROPE_BASE, lambda _, hidden_TD, __: hidden_TD.sum())
        return max(held), live_buffers(runner)

    for during, after in run_on_ranks(work, 2):
        assert during <= most
        assert after == 0


def live_buffers(runner: PipelineRunner) -> int:
    ((_, stages),) = runner._schedules.values()
    infos = [
        info
        for stage in stages
        for buffers in (stage.args_recv_info, stage.grad_recv_info)
        for held in buffers.values()
        for info in held
    ]
    return sum(
        getattr(info, "buffer", None) is not None and not info.buffer.is_meta for info in infos
    )


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_1f1b", "zbv"])
def test_forward_only_gives_every_token_the_loss_of_one_process(schedule: str) -> None:
    parallel = ParallelConfig(pipeline=2, pipeline_schedule=schedule)
    batch = [*streams(5), stream(6, tokens=31)]

    def work(rank: int, world_size: int) -> list[Tensor]:
        mesh = start(CPU, 60, Topology(pipeline=2))
        stages = build_stages(MODEL, parallel, rank, torch.float64)
        runner = PipelineRunner(stages, place_stages(parallel), mesh)
        found = runner.forward_only(
            batch, ROPE_BASE, lambda last, hidden, one: last.token_losses(hidden, one.targets_T)
        )
        assert not any(p.grad is not None for stage in stages for p in stage.parameters())
        return found

    model = transformer(MODEL)
    with torch.no_grad():
        expected = [
            model.token_losses(model(s.tokens_T, s.layout, ROPE_BASE), s.targets_T) for s in batch
        ]
    results = run_on_ranks(work, 2)
    last = place_stages(parallel).rank_of(len(split_layers(MODEL, parallel, TOKENS)) - 1)
    assert results[1 - last] == []
    for found, wanted in zip(results[last], expected, strict=True):
        # Nothing is summed over ranks.
        assert torch.equal(found, wanted)


def test_the_private_function_of_torch_that_notes_waits_is_there_or_its_absence_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert unnoted_waits() == ""
    monkeypatch.delattr(schedules, "_wait_batch_p2p")
    assert "schedules._wait_batch_p2p: on gloo a hang" in unnoted_waits()
