"""A second optimizer, whole in this file, that is not elementwise: momentum SGD with one norm per whole matrix.

m = beta1 m + g        w = w - rate (decay w + m / (|m| + epsilon))        |m|: over the whole parameter
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parallel.config import ParallelConfig
from parallel.engine.optimizers import OPTIMIZERS, MatrixOptimizer, MatrixStep, has_decay
from parallel.mesh import start
from ranks import run_on_ranks
from tests.parity.engine_steps import CPU, OPTIMIZER, RATE, Named, Walk, oracle, small_configuration
from tests.parity.layout_cases import MODELS, Case

# Under tensor 2 both ranks hold every norm and the one key head; other matrices are cut by rows or columns.
LAYOUTS = [(ParallelConfig(zero_stage=stage), "float32") for stage in (0, 1, 2, 3)]
LAYOUTS += [(ParallelConfig(tensor=2), "float32"), (ParallelConfig(pipeline=2), "float32")]
LAYOUTS += [(ParallelConfig(), "bfloat16")]
CASE = Case(1, 1, 1, 1, "-", "-", 4, "small", "everything")


def update(taken: MatrixStep) -> None:
    momenta = [fragment.states["momentum"] for fragment in taken.fragments]
    for fragment, momentum in zip(taken.fragments, momenta, strict=True):
        momentum.mul_(taken.config.beta1).add_(fragment.gradient)
    squares = taken.sums([momentum.double().square().sum() for momentum in momenta])
    for fragment, momentum, square in zip(taken.fragments, momenta, squares, strict=True):
        direction = momentum / (square.sqrt().float() + taken.config.epsilon)
        direction += fragment.weight_decay * fragment.weight
        fragment.weight.sub_(direction, alpha=fragment.learning_rate)


def on_one_process(named: Named) -> Callable[[], None]:
    momenta = {name: torch.zeros_like(parameter) for name, parameter in named}

    @torch.no_grad()
    def take_step() -> None:
        for name, weight in named:
            momenta[name] = OPTIMIZER.beta1 * momenta[name] + weight.grad
            direction = momenta[name] / (momenta[name].norm() + OPTIMIZER.epsilon)
            weight -= RATE * (direction + 0.2 * has_decay(name) * weight)

    return take_step


def test_it_trains_skips_resumes_and_moves_under_every_layout_as_on_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPTIMIZERS, "normed_sgd", MatrixOptimizer(("momentum",), update))
    monkeypatch.setitem(MODELS, "small", replace(MODELS["llama"], num_layers=3))
    truth = oracle(CASE, on_one_process)
    small_configuration()

    def work(rank: int, world_size: int) -> None:
        world, before = start(CPU, 60).world, None
        for number, (layout, precision) in enumerate(LAYOUTS):
            walked = Walk(world, CASE, layout, replace(OPTIMIZER, name="normed_sgd"), precision)
            before = walked.check(tmp_path / str(number), truth, before)

    run_on_ranks(work, 2)
