"""LongPPL of both forms, under every layout, is that of a loop over single documents on one process in float64."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import EveryTarget
from data.packing.spans import BatchShape
from model.at_step import AtStep
from model.attention.core import choose_core
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, arrange, start
from parallel.parallelize import finish
from parallel.pipeline.runner import PipelineRunner
from ranks import run_on_ranks
from tests.parity.layout_cases import Case
from tests.parity.layout_models import MODELS
from tests.parity.test_layouts import SEED, build
from train.build_trainer import dealer
from train.configuration.long_context_settings import (
    LongPerplexityForm,
    OfficialLongPerplexity,
    WindowedLongPerplexity,
)
from train.evaluation.long_perplexity import LongPerplexity
from train.objective import MicroBatch
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage

# One that no number of ranks divides. Documents of it, longer, shorter and of one token: 41 tokens of three count.
LENGTH, CONTEXT, STEP, BASE = 41, 12, 5, 500.0
DOCUMENTS = (41, 3, 60, 1, 90)
RULE = {"context_tokens": CONTEXT, "length": LENGTH, "alpha": 0.1, "beta": 4.0, "max_tokens": 300}
FORMS: dict[str, LongPerplexityForm] = {
    "official": OfficialLongPerplexity(step_tokens=STEP, **RULE),
    "windowed": WindowedLongPerplexity(**RULE),
}
CASES = (
    Case(1, 1, 1, 2, "-", "-", 1, "cohere", "everything"),
    Case(2, 1, 1, 1, "-", "-", 1, "cohere", "everything"),
    Case(1, 1, 2, 1, "-", "zigzag", 1, "cohere", "everything"),
    Case(1, 1, 2, 1, "-", "balanced", 1, "cohere", "everything"),
    Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "everything"),
)
MORE = (
    Case(2, 2, 1, 1, "zbv", "-", 2, "cohere", "everything"),
    Case(2, 1, 2, 1, "-", "balanced", 1, "cohere", "everything"),
    Case(1, 2, 2, 1, "interleaved_1f1b", "contiguous", 1, "cohere", "everything"),
    Case(1, 1, 2, 2, "-", "contiguous", 1, "cohere", "everything"),
)


class Documents(EveryTarget):
    """Held-out documents of random tokens; every second token repeats the one 20 before it."""

    num_documents, eos_id, longest = len(DOCUMENTS), 0, max(DOCUMENTS)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return np.array(DOCUMENTS)[documents]

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        tokens = np.random.default_rng(document).integers(0, 40, DOCUMENTS[document])
        for place in range(20, len(tokens), 2):
            tokens[place] = tokens[place - 20]
        return tokens[start : start + length]


class Forwards:
    """The part of a trainer that evaluations call, in float64 and without DeepSpeed."""

    def __init__(self, case: Case, mesh: Mesh) -> None:
        local = build(case, mesh)
        finish(local, mesh)
        enlarge(local.module)
        self._mesh = mesh
        self._runner = PipelineRunner(local.stages, local.placement, mesh)
        self.at_once = local.placement.ranks

    def token_losses(self, micro_batches: list[MicroBatch], at: AtStep) -> list[Tensor] | None:
        found = self._runner.forward_only(
            micro_batches, at, lambda stage, x_TD, one: stage.token_losses(x_TD, one.targets_T)
        )
        return found if found and self._mesh.tensor.rank == 0 else None


def enlarge(model: nn.Module) -> None:
    """Makes matrices larger, so that losses depend on the context."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 8


def point(parallel: ParallelConfig) -> Point:
    shape = BatchShape(LENGTH - 1, 2 * LENGTH, 2 * LENGTH, (1.0,))
    curve = BaseCurve(((0, BASE),))
    stage = Stage("one", 0, 0, 1, shape, curve, None, parallel)
    return Point(stage, 0.0, BASE, MODELS["cohere"], (LENGTH,))


def losses(model: Transformer, at: AtStep, tokens: np.ndarray) -> list[float]:
    """The loss of every token of one document but the first."""
    tokens_T = torch.from_numpy(tokens)
    with torch.no_grad():
        hidden_TD = model(tokens_T, PackedLayout.from_lengths([len(tokens)]), at)
        logits_TV = model.logits(hidden_TD[:-1])
    return F.cross_entropy(logits_TV, tokens_T[1:], reduction="none").tolist()


@cache
def oracle(form: str) -> dict[str, Any]:
    """A loop over documents; the windowed model has its windows in its configuration."""
    config = MODELS["cohere"]
    model = Transformer(config, choose_core("dense", "cpu", torch.float64)).double()
    initialize(model, config, SEED)
    enlarge(model)
    at = AtStep.of(config, BASE, (LENGTH,))
    changed = {
        "full_nope": KindConfig(window=CONTEXT),
        "wide": replace(config.kinds["wide"], window=CONTEXT),
        "part": replace(config.kinds["part"], window=CONTEXT),
    }
    narrow = AtStep.of(replace(config, kinds=config.kinds | changed), BASE, (LENGTH,))
    every, perplexities, weights, candidates, margins = [], [], [], 0, []
    pieces = [(0, 0), (2, 0), (4, 0), (4, LENGTH)]
    for document, first in pieces:
        x = Documents().read(document, first, LENGTH)
        long = losses(model, at, x)
        every += long
        short = losses(model, narrow, x)
        if form == "official":
            short = [math.nan] * (LENGTH - 1)
            for begin in range(0, LENGTH - CONTEXT, STEP):
                of_piece = losses(model, at, x[begin : begin + CONTEXT + STEP])
                for place in range(CONTEXT, min(CONTEXT + STEP, LENGTH - begin)):
                    short[begin + place - 1] = of_piece[place - 1]
        keys = []
        for place in range(CONTEXT, LENGTH):
            gained, loss = short[place - 1] - long[place - 1], long[place - 1]
            candidates += 1
            margins += [abs(gained - RULE["alpha"]), abs(loss - RULE["beta"])]
            if gained > RULE["alpha"] and loss < RULE["beta"]:
                keys.append(loss)
        if keys:
            perplexities.append(math.exp(sum(keys) / len(keys)))
            weights.append(len(keys))
    assert min(margins) > 1e-6, "no token is so near a limit that rounding decides"
    return {
        "form": form,
        "length": LENGTH,
        "context_tokens": CONTEXT,
        "documents": len(pieces),
        "long_perplexity": sum(p * w for p, w in zip(perplexities, weights, strict=True))
        / sum(weights),
        "key_tokens": sum(weights),
        "candidate_tokens": candidates,
        "tokens": len(every),
        "perplexity": math.exp(sum(every) / len(every)),
    }


def check(cases: tuple[Case, ...]) -> None:
    def work(rank: int, world_size: int) -> list[Any]:
        world, found = start(torch.device("cpu"), 60).world, []
        for case in cases:
            parallel = case.parallel()
            mesh = arrange(world, parallel.topology(world_size))
            deal = dealer(case.config, mesh, parallel, [CONTEXT])
            forwards: Any = Forwards(case, mesh)
            for form, wanted in FORMS.items():
                source: Any = Documents()
                task = LongPerplexity(wanted, mesh, deal, source)
                found.append((case, form, task.evaluate(forwards, point(parallel))))
        return found

    for of_rank in run_on_ranks(work, cases[0].ranks):
        for case, form, row in of_rank:
            for name, value in oracle(form).items():
                exact = value if isinstance(value, str) else pytest.approx(value, rel=1e-12)
                assert row.pop(name) == exact, (case, name)
            assert not row


def test_both_forms_are_a_loop_over_documents_on_two_ranks() -> None:
    assert 3 < oracle("official")["key_tokens"] < oracle("official")["candidate_tokens"] / 2
    assert oracle("windowed")["key_tokens"] not in (0, oracle("official")["key_tokens"])
    check(CASES)


@pytest.mark.slow
def test_both_forms_are_a_loop_over_documents_on_four_ranks() -> None:
    check(MORE)
