"""Every layout gives the numbers of one process: loss, valid tokens, loss by source, every gradient, in float64.

The oracle is the whole model with dense attention on one process. The cases are a pairwise covering array
(`layout_cases.py`). Streams are hostile: a document over three ranks, documents of length 1, a window over
the border of a rank and one larger than a rank's share, padding at the end, a stream without any label.
"""

from collections import defaultdict
from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.attention.core import choose_core
from model.initialization import initialize
from model.logits import IGNORE
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.engine.training import ORDINARILY, Training
from parallel.mesh import Mesh, arrange, gather, start
from parallel.parallelize import LocalModel, build_local, finish
from parallel.pipeline.runner import PipelineRunner
from parallel.pipeline.tied import TiedWeight
from parallel.sequence.layout import build_share
from parallel.sequence.route import Transport
from parallel.sequence.traffic import TrafficMeter
from parallel.tensor.apply import initialise_cut
from ranks import run_on_ranks
from tests.parity.layout_cases import (
    CASES,
    FACTORS,
    FIRST_CASES,
    KEPT_ATTENTION,
    MODELS,
    TOKENS,
    Case,
    pairs,
    possible_cases,
)
from tests.parity.streams import (
    NUM_SOURCES,
    SEED,
    Z_LOSS,
    at,
    streams,
    streams_of_rank,
    summed_by_source,
)
from train.objective import losses_by_source, to_device

# Beside the names of gradients.
BY_SOURCE = "by source"
NORM = "gradient norm"
FIRST = (*FIRST_CASES, *KEPT_ATTENTION)
OTHERS = tuple(case for case in CASES if case not in FIRST_CASES)


Found = tuple[float, int, dict[str, Tensor]]
Truth = tuple[float, dict[str, Tensor]]


def oracle(case: Case) -> Truth:
    """Loss per valid token, and gradients and losses by source, of one process."""
    config = case.at_stage
    core = choose_core("dense", "cpu", torch.float64, softcap=config.attention_softcap)
    model = Transformer(config, core).double()
    initialize(model, config, SEED)
    batch = streams(case)
    valid = sum(b.valid_tokens for b in batch)
    loss = torch.zeros((), dtype=torch.float64)
    by_source = torch.zeros(NUM_SOURCES, dtype=torch.float64)
    for b in batch:
        layout = PackedLayout.from_lengths(b.lengths, positions_T=b.positions_T)
        hidden_TD = model(b.tokens_T, layout, at(config))
        sums = model.loss(hidden_TD, b.targets_T, Z_LOSS)
        (sums.total / valid).backward()
        loss += sums.loss_sum.detach() / valid
        by_source += summed_by_source(sums.losses_T, b) / valid
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(loss), found | {BY_SOURCE: by_source, NORM: norm_of(found)}


def norm_of(gradients: dict[str, Tensor]) -> Tensor:
    """The norm of all of them together."""
    return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()


def build(case: Case, mesh: Mesh) -> LocalModel:
    """This rank's part of the model with its initial weights in float64, without DeepSpeed."""
    config = case.config
    core = choose_core("dense", "cpu", torch.float64, softcap=config.attention_softcap)
    local = build_local(
        config, core, mesh, case.parallel(), sequence_length=TOKENS, traffic=TrafficMeter()
    )
    for stage in local.stages:
        stage.to_empty(device="cpu").double()
        stage.keep_for_backward(case.keep)
        for name, parameter in stage.named_parameters():
            initialise_cut(name, parameter.data, config, SEED, mesh.tensor)
    return local


def gradients(case: Case, mesh: Mesh, training: Training = ORDINARILY) -> Found:
    """Loss, valid tokens of this rank's stage and every gradient it answers for, whole; losses by source, norm."""
    local = build(case, mesh)
    parameters, tied = finish(local, mesh, training)
    valid = sum(b.valid_tokens for b in streams(case))
    sums, by_source = torch.zeros(2 + NUM_SOURCES, dtype=torch.float64).split((2, NUM_SOURCES))

    def loss_of(stage: Transformer, hidden_TD: Tensor, micro_batch: Any) -> Tensor:
        found = stage.loss(hidden_TD, micro_batch.targets_T, Z_LOSS)
        if mesh.tensor.rank == 0:
            sums[0] += found.loss_sum.detach() / valid
            sums[1] += (micro_batch.targets_T != IGNORE).sum()
            found_losses = losses_by_source(found.losses_T, micro_batch.sources_T, NUM_SOURCES)
            by_source.add_(found_losses / valid)
        return found.total / valid

    micro_batches = [
        to_device(b, mesh.device) for b in streams_of_rank(case, mesh, case.parallel())
    ]
    if mesh.pipeline.size == 1:
        (model,) = local.stages
        for micro_batch in micro_batches:
            hidden_TD = model(micro_batch.tokens_T, micro_batch.layout, at(case.at_stage))
            loss_of(model, hidden_TD, micro_batch).backward()
    else:
        runs = local.differentiated(training)
        runner = PipelineRunner(local.stages, local.placement, mesh, None, runs)
        runner.forward_backward(micro_batches, at(case.at_stage), loss_of)
        add_tied(tied, parameters.named.get("embedding.weight"))
    mesh.sum_over_world(sums)
    found = {BY_SOURCE: mesh.sum_over_world(by_source)}
    squares = torch.zeros((), dtype=torch.float64)
    assert all(parameter.grad is None for parameter in parameters.frozen.values())
    for name, parameter in parameters.trained.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient, group=mesh.zero.group)
        found[name] = parameters.joined(name, gather(gradient, mesh.tensor))
        # As DeepSpeed counts: what this rank owns, once for all ranks that hold the sum.
        squares += gradient.square().sum() * parameter.tensor_model_parallel / mesh.zero.size
    found[NORM] = mesh.sum_over_world(squares).sqrt()
    return float(sums[0]), int(sums[1]), found


def add_tied(tied: TiedWeight, embedding: Tensor | None) -> None:
    tied.add_gradient(None if embedding is None else embedding.grad)


@cache
def results(
    cases: tuple[Case, ...],
) -> dict[Case, list[tuple[float, int, dict[str, Tensor]]]]:
    """What every rank found for each of some cases of one size: one world that re-forms from case to case."""
    ranks = cases[0].ranks

    def work(rank: int, world_size: int) -> Any:
        world = start(torch.device("cpu"), 60).world
        return [gradients(case, arrange(world, case.parallel().topology(ranks))) for case in cases]

    found = run_on_ranks(work, ranks)
    return {case: [of_rank[number] for of_rank in found] for number, case in enumerate(cases)}


def of_one_size(cases: tuple[Case, ...], ranks: int) -> tuple[Case, ...]:
    """Those that run in one world."""
    return tuple(case for case in cases if case.ranks == ranks)


def errors(case: Case, results: list[Found], truth: Truth) -> dict[str, float]:
    """By the truth: the largest relative error on any rank of loss, valid tokens and every gradient.

    Of a gradient: relative to its largest element. Infinite for a name that only the ranks have, or only the truth.
    """
    loss, expected = truth
    valid = sum(b.valid_tokens for b in streams(case))
    seen: dict[str, list[float]] = defaultdict(list)
    for found_loss, found_valid, found in results:
        seen["loss"].append(abs(found_loss - loss) / loss)
        seen["valid tokens"].append(abs(found_valid - valid) / valid)
        for name in found.keys() & expected.keys():
            difference = (found[name] - expected[name]).abs().max()
            seen[name].append(float(difference / expected[name].abs().max()))
        for name in found.keys() - expected.keys():
            seen[name].append(torch.inf)
    for name in expected.keys() - seen.keys():
        seen[name].append(torch.inf)
    # Not Python's max, which may pass over a NaN.
    return {
        name: float(torch.tensor(each, dtype=torch.float64).amax()) for name, each in seen.items()
    }


def check(case: Case, results: list[Found], truth: Truth | None = None) -> None:
    """Every rank's results against the oracle's; the message names all that is wrong, the worst gradient first."""
    tolerances = {"loss": 1e-12, "valid tokens": 0.0, BY_SOURCE: 1e-12, NORM: 1e-12}
    found = errors(case, results, truth or oracle(case))
    wrong = [name for name in found if not found[name] <= tolerances.get(name, 1e-10)]
    wrong.sort(key=lambda name: (name not in tolerances, -found[name]))
    assert not wrong, "; ".join(f"{name} {found[name]:.1e}" for name in wrong) + f"; {case}"


def check_by(transport: Transport, cases: tuple[Case, ...], patch: pytest.MonkeyPatch) -> None:
    """Cases of one size whose full layers receive keys by ring steps, or in one exchange, whatever their number."""
    patch.setattr("train.build_trainer.build_share", partial(build_share, transport=transport))
    for case, found in results.__wrapped__(cases).items():
        check(case, found)


@pytest.mark.parametrize("case", FIRST, ids=str)
def test_every_gradient_equals_one_process(case: Case) -> None:
    check(case, results(of_one_size(FIRST, case.ranks))[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_every_gradient_equals_one_process_for_every_pair(case: Case) -> None:
    check(case, results(of_one_size(OTHERS, case.ranks))[case])


def test_a_pipeline_alone_keeps_every_bit() -> None:
    """Its ranks add nothing up but the two uses of a tied weight."""
    cases = [
        Case(1, 2, 1, 1, schedule, "-", 4, model, "everything")
        for schedule in ("1f1b", "interleaved_1f1b", "zbv")
        for model in MODELS
    ]

    def work(rank: int, world_size: int) -> list[str]:
        world, wrong = start(torch.device("cpu"), 60).world, []
        for case in cases:
            loss, _, found = gradients(case, arrange(world, case.parallel().topology(world_size)))
            expected_loss, expected = oracle(case)
            del found[BY_SOURCE], found[NORM]  # the oracle adds in another order
            if case.config.tie_embeddings:
                found.pop("embedding.weight", None)
            wrong += [f"{n} {case}" for n in found if not torch.equal(found[n], expected[n])]
            wrong += [f"loss {case}"] * (loss != expected_loss)
        return wrong

    for wrong in run_on_ranks(work, 2):
        assert wrong == []


def test_the_first_cases_hold_every_value_of_every_factor() -> None:
    for name, values in FACTORS.items():
        assert {getattr(case, name) for case in FIRST_CASES} == set(values), name


def test_the_cases_cover_every_possible_pair() -> None:
    wanted = {pair for case in possible_cases() for pair in pairs(case)}
    covered = {pair for case in CASES for pair in pairs(case)}
    assert all(case.is_possible for case in CASES)
    assert wanted - covered == set()
