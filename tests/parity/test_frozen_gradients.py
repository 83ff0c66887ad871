"""What is frozen gets no gradient, and what trains has the gradient and the norm of one process, on every axis.

In float64 without DeepSpeed. The oracle differentiates everything on one process; the gradients of what is frozen are
left out of it, and of its norm.
"""

from functools import cache
from typing import Any

import pytest
import torch

from parallel.mesh import arrange, start
from ranks import run_on_ranks
from tests.parity.group_cases import TRAINED, training_of
from tests.parity.layout_cases import Case
from tests.parity.test_layouts import (
    BY_SOURCE,
    NORM,
    Found,
    Truth,
    check,
    gradients,
    norm_of,
    oracle,
)

# tensor, pipeline, sequence, data, schedule, dealing, micro-batches, model, keep
TENSOR = Case(2, 1, 1, 1, "-", "-", 1, "llama", "input")
SEQUENCE = Case(1, 1, 2, 1, "-", "zigzag", 1, "cohere", "attention")
ONE_F_ONE_B = Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "everything")
ZBV = Case(1, 2, 1, 1, "zbv", "-", 2, "llama", "everything")
CASES = tuple(
    (case, trained)
    for case, names in {
        TENSOR: ("full layers", "vectors"),
        SEQUENCE: ("one layer",),
        ONE_F_ONE_B: ("one layer", "embedding"),
        ZBV: ("full layers", "head"),
    }.items()
    for trained in names
)
OTHER_LAYOUTS = (
    TENSOR,
    SEQUENCE,
    ONE_F_ONE_B,
    ZBV,
    Case(1, 1, 2, 1, "-", "balanced", 2, "gated", "attention"),
    Case(1, 2, 1, 1, "interleaved_1f1b", "-", 4, "cohere", "input"),
    Case(1, 2, 1, 1, "interleaved_1f1b", "-", 2, "llama", "everything"),
    Case(1, 2, 1, 1, "zbv", "-", 4, "cohere", "everything"),
    Case(1, 2, 1, 1, "1f1b", "-", 2, "llama", "attention"),
    Case(2, 1, 1, 1, "-", "-", 1, "cohere", "everything"),
    Case(2, 1, 1, 1, "-", "-", 1, "cohere", "input"),
    Case(2, 1, 1, 1, "-", "-", 1, "gated", "attention"),
    Case(2, 1, 1, 1, "-", "-", 1, "static_llama", "input"),
    Case(2, 1, 1, 1, "-", "-", 1, "scaled_llama", "everything"),
)
OTHERS = tuple((case, trained) for case in OTHER_LAYOUTS for trained in TRAINED)
ON_FOUR_LAYOUTS = (
    Case(2, 1, 2, 1, "-", "zigzag", 2, "llama", "input"),
    Case(2, 2, 1, 1, "zbv", "-", 4, "llama", "everything"),
    Case(2, 2, 1, 1, "1f1b", "-", 2, "cohere", "input"),
    Case(1, 4, 1, 1, "1f1b", "-", 4, "cohere", "everything"),
    Case(1, 4, 1, 1, "interleaved_1f1b", "-", 4, "llama", "everything"),
    Case(1, 2, 2, 1, "zbv", "zigzag", 2, "cohere", "everything"),
    Case(4, 1, 1, 1, "-", "-", 1, "llama", "everything"),
)
ON_FOUR = tuple((case, trained) for case in ON_FOUR_LAYOUTS for trained in TRAINED)
Cases = tuple[tuple[Case, str], ...]


@cache
def whole(case: Case) -> Truth:
    return oracle(case)


def truth(case: Case, trained: str) -> Truth:
    """Of one process, without what is frozen."""
    loss, found = whole(case)
    training = training_of(case.config, TRAINED[trained])
    kept = {
        name: gradient
        for name, gradient in found.items()
        if name not in (BY_SOURCE, NORM) and not training.is_frozen(name)
    }
    return loss, kept | {BY_SOURCE: found[BY_SOURCE], NORM: norm_of(kept)}


@cache
def results(cases: Cases) -> list[list[Found]]:
    """What every rank finds for each case: one world for all of them."""

    def work(rank: int, world_size: int) -> Any:
        world = start(torch.device("cpu"), 60).world
        return [
            gradients(
                case,
                arrange(world, case.parallel().topology(world_size)),
                training_of(case.config, TRAINED[trained]),
            )
            for case, trained in cases
        ]

    return [list(of_case) for of_case in zip(*run_on_ranks(work, cases[0][0].ranks), strict=True)]


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n]}")
def test_trained_gradients_equal_one_process_and_frozen_weights_get_none(number: int) -> None:
    case, trained = CASES[number]
    check(case, results(CASES)[number], truth(case, trained))


@pytest.mark.slow
@pytest.mark.parametrize("cases", [OTHERS, ON_FOUR], ids=["two", "four"])
def test_the_same_with_every_set_in_other_layouts(cases: Cases) -> None:
    for (case, trained), found in zip(cases, results(cases), strict=True):
        check(case, found, truth(case, trained))
