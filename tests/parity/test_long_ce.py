"""LongCE under every layout: loss, weighted loss and every gradient are those of a plain formula in float64.

The oracle is the whole model with dense attention on one process. It has its windows in the configuration of a second
model with the same weights, whole logits, torch's cross-entropy and autograd, with detached weights.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.at_step import AtStep
from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.logits import IGNORE
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.mesh import Mesh, arrange, gather, start
from parallel.parallelize import LocalModel, finish
from parallel.pipeline.runner import PipelineRunner
from parallel.sequence.traffic import TrafficMeter
from ranks import run_on_ranks
from tests.parity.layout_cases import Case
from tests.parity.streams import SEED, Z_LOSS, at, streams, streams_of_rank
from tests.parity.test_layouts import Found, Truth, add_tied, build, check
from tests.parity.test_long_perplexity import enlarge
from train.objective import NextTokenLoss, ShortForward, to_device
from train.trainer import StagedTrainer, StepSums, Trainer, WholeTrainer

KEYS, CAP = 11, 1.2
CASES = (
    Case(1, 1, 1, 2, "-", "-", 2, "llama", "input"),
    Case(2, 1, 1, 1, "-", "-", 2, "cohere", "everything"),
    Case(1, 1, 2, 1, "-", "zigzag", 2, "llama", "everything"),
    Case(1, 1, 2, 1, "-", "balanced", 2, "cohere", "attention"),
    Case(1, 2, 1, 1, "1f1b", "-", 4, "cohere", "everything"),
)
MORE = (
    Case(2, 2, 1, 1, "zbv", "-", 4, "llama", "input"),
    Case(2, 1, 2, 1, "-", "contiguous", 2, "cohere", "input"),
    Case(1, 2, 2, 1, "interleaved_1f1b", "zigzag", 4, "cohere", "everything"),
    Case(2, 2, 1, 1, "1f1b", "-", 4, "cohere", "attention", "pose over rows"),
    Case(1, 1, 4, 1, "-", "balanced", 2, "cohere", "everything", stage="ladder"),
)


class PlainEngine:
    """The part of the engine that a step's gradients need, without DeepSpeed."""

    def __init__(self, objective: nn.Module) -> None:
        self._objective = objective

    def forward_backward(self, run: Callable[[nn.Module], Tensor], *, last: bool) -> None:
        del last
        run(self._objective).backward()

    def forward_only(self, *args: Any, **kwargs: Any) -> Any:
        return self._objective(*args, **kwargs)

    def run_pipeline(self, work: Callable[[], None]) -> None:
        work()


def narrow(config: ModelConfig) -> ModelConfig:
    """The model with a window of KEYS in every kind of layer in which a token sees more."""
    kinds = dict(config.kinds)
    for name, spec in AtStep.of(config, 1.0).specs.items():
        if spec.reach.limit is None or spec.reach.limit > KEYS:
            kinds[name] = replace(kinds.get(name, KindConfig()), window=KEYS)
    return replace(config, kinds=kinds)


@cache
def oracle(case: Case) -> tuple[Truth, float]:
    """Loss per valid token and every gradient; the weighted loss per valid token."""
    config = case.at_stage
    core = choose_core("dense", "cpu", torch.float64, softcap=config.attention_softcap)
    model = Transformer(config, core).double()
    initialize(model, config, SEED)
    enlarge(model)
    batch = streams(case)
    valid = sum(b.valid_tokens for b in batch)
    loss = weighted = 0.0
    weights = []
    for b in batch:
        layout = PackedLayout.from_lengths(b.lengths, positions_T=b.positions_T)

        def logits(
            settings: ModelConfig, tokens_T: Tensor = b.tokens_T, layout: PackedLayout = layout
        ) -> Tensor:
            return model.logits(model(tokens_T, layout, at(settings)))

        logits_TV = logits(config)
        losses_T = F.cross_entropy(logits_TV, b.targets_T, ignore_index=IGNORE, reduction="none")
        with torch.no_grad():
            short_T = F.cross_entropy(
                logits(narrow(config)), b.targets_T, ignore_index=IGNORE, reduction="none"
            )
            w_T = torch.exp(short_T - losses_T).clamp(max=CAP)
        counts = b.targets_T != IGNORE
        weights.append(w_T[counts])
        z_sum = logits_TV.logsumexp(-1)[counts].square().sum()
        (((w_T * losses_T).sum() + Z_LOSS * z_sum) / valid).backward()
        loss += float(losses_T.detach().sum()) / valid
        weighted += float((w_T * losses_T.detach()).sum()) / valid
    w = torch.cat(weights)
    assert w.min() < 0.9 and 1.1 < w.max() == CAP, "weights below and above 1, and at the cap"
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return (loss, found), weighted


def trainer_of(case: Case, mesh: Mesh, local: LocalModel) -> Trainer:
    """The trainer of a run, in float64 and without DeepSpeed."""
    if mesh.pipeline.size == 1:
        engine: Any = PlainEngine(NextTokenLoss(local.stages[0], Z_LOSS))
        return WholeTrainer(engine, mesh, TrafficMeter())
    engine = PlainEngine(local.module)
    runner = PipelineRunner(local.stages, local.placement, mesh)
    return StagedTrainer(engine, runner, mesh, TrafficMeter(), z_loss=Z_LOSS, draw=lambda *_: None)


def gradients(case: Case, mesh: Mesh) -> tuple[Found, float]:
    local = build(case, mesh)
    parameters, tied = finish(local, mesh)
    enlarge(local.module)
    valid = sum(b.valid_tokens for b in streams(case))
    batches = streams_of_rank(case, mesh, case.parallel(), keys_at_most=(KEYS,))
    micro_batches = [to_device(b, mesh.device) for b in batches]
    own = at(case.at_stage)
    short = ShortForward(replace(own, keys_at_most=KEYS), CAP)
    counted: StepSums = trainer_of(case, mesh, local).gradients(
        micro_batches, own, lambda total: total / valid, 1, short
    )
    if mesh.pipeline.size > 1:
        add_tied(tied, parameters.named.get("embedding.weight"))
    mesh.sum_over_world(counted.sums)
    mesh.sum_over_world(counted.weighted)
    found = {}
    for name, parameter in parameters.trained.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        dist.all_reduce(gradient, group=mesh.zero.group)
        found[name] = parameters.joined(name, gather(gradient, mesh.tensor))
    return (float(counted.sums[0]) / valid, valid, found), float(counted.weighted) / valid


@cache
def results(cases: tuple[Case, ...]) -> dict[Case, list[tuple[Found, float]]]:
    ranks = cases[0].ranks

    def work(rank: int, world_size: int) -> Any:
        world = start(torch.device("cpu"), 60).world
        return [gradients(case, arrange(world, case.parallel().topology(ranks))) for case in cases]

    found = run_on_ranks(work, ranks)
    return {case: [of_rank[number] for of_rank in found] for number, case in enumerate(cases)}


def check_weighted(case: Case, found: list[tuple[Found, float]]) -> None:
    truth, weighted = oracle(case)
    check(case, [of_rank for of_rank, _ in found], truth)
    assert all(each == pytest.approx(weighted, rel=1e-12) for _, each in found)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_gradient_is_that_of_the_plain_formula(case: Case) -> None:
    check_weighted(case, results(CASES)[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE, ids=str)
def test_every_gradient_is_that_of_the_plain_formula_on_four_ranks(case: Case) -> None:
    check_weighted(case, results(MORE)[case])
