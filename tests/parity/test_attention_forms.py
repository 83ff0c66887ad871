"""Forms of attention over every axis: layers that have a form beside layers that have not, against one process."""

import pytest

from tests.parity import test_layout_steps, test_layouts
from tests.parity.layout_cases import Case

# tensor, pipeline, sequence, data, schedule, dealing, micro-batches, model, keep
CASES = (
    Case(2, 1, 1, 1, "-", "-", 1, "gated", "input"),
    Case(2, 1, 1, 1, "-", "-", 1, "normed", "attention"),
    Case(1, 1, 2, 1, "-", "zigzag", 2, "gated", "attention"),
    Case(1, 1, 2, 1, "-", "zigzag", 1, "normed", "everything"),
    Case(1, 2, 1, 1, "zbv", "-", 4, "normed", "everything"),
    Case(2, 1, 1, 1, "-", "-", 1, "scaled_llama", "input"),
    Case(1, 1, 2, 1, "-", "balanced", 2, "scaled", "everything"),
    Case(1, 2, 1, 1, "zbv", "-", 2, "scaled", "everything"),
    Case(2, 1, 1, 1, "-", "-", 1, "turned", "everything"),
    Case(1, 1, 2, 1, "-", "zigzag", 2, "turned", "input"),
    Case(1, 2, 1, 1, "zbv", "-", 2, "turned_llama", "everything"),
    Case(1, 1, 2, 1, "-", "balanced", 2, "turned_llama", "attention"),
    Case(2, 1, 1, 1, "-", "-", 1, "fourier_llama", "attention"),
    Case(2, 1, 1, 1, "-", "-", 1, "fourier", "everything"),
    Case(1, 1, 2, 1, "-", "balanced", 2, "fourier", "input"),
    Case(2, 1, 1, 1, "-", "-", 1, "static", "input"),
    Case(2, 1, 1, 1, "-", "-", 1, "static_llama", "attention"),
    Case(1, 1, 2, 1, "-", "zigzag", 2, "static", "everything"),
    Case(1, 2, 1, 1, "zbv", "-", 2, "static", "everything"),
    Case(2, 1, 1, 1, "-", "-", 1, "headed", "input"),
    Case(1, 1, 2, 1, "-", "zigzag", 2, "headed_llama", "attention"),
)
OTHERS = (
    Case(1, 2, 2, 1, "1f1b", "balanced", 2, "gated", "input"),
    Case(2, 2, 1, 1, "interleaved_1f1b", "-", 2, "gated", "everything"),
    Case(2, 1, 2, 1, "-", "contiguous", 1, "normed", "input"),
    Case(4, 1, 1, 1, "-", "-", 1, "normed", "everything"),
    Case(4, 1, 1, 1, "-", "-", 1, "gated", "attention"),
    Case(4, 1, 1, 1, "-", "-", 1, "headed", "everything"),
    Case(4, 1, 1, 1, "-", "-", 1, "headed_llama", "input"),
)
# With a ZeRO stage.
STEP_CASES = ((Case(2, 1, 1, 1, "-", "-", 2, "gated", "everything"), 1),)
MORE_STEP_CASES = (
    (Case(1, 1, 2, 1, "-", "balanced", 1, "normed", "input"), 3),
    (Case(2, 1, 1, 1, "-", "-", 2, "static_llama", "everything"), 1),
    (Case(1, 1, 1, 2, "-", "-", 1, "static", "input"), 3),
)
OTHER_STEP_CASES = (
    (Case(2, 1, 2, 1, "-", "zigzag", 2, "gated", "input"), 3),
    (Case(2, 1, 1, 2, "-", "-", 2, "normed", "everything"), 2),
    (Case(2, 2, 1, 1, "1f1b", "-", 2, "gated", "everything"), 1),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_gradient_equals_one_process(case: Case) -> None:
    test_layouts.check(case, test_layouts.results(CASES)[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_every_gradient_equals_one_process_on_two_axes(case: Case) -> None:
    test_layouts.check(case, test_layouts.results(OTHERS)[case])


@pytest.mark.parametrize(("case", "zero_stage"), STEP_CASES, ids=str)
def test_three_steps_equal_one_process(case: Case, zero_stage: int) -> None:
    test_layout_steps.small_configuration()
    found = test_layout_steps.results(STEP_CASES)
    test_layout_steps.check(case, found[case, zero_stage])


@pytest.mark.slow
@pytest.mark.parametrize(("case", "zero_stage"), MORE_STEP_CASES, ids=str)
def test_three_steps_of_the_other_forms_equal_one_process(case: Case, zero_stage: int) -> None:
    test_layout_steps.small_configuration()
    found = test_layout_steps.results(MORE_STEP_CASES)
    test_layout_steps.check(case, found[case, zero_stage])


@pytest.mark.slow
@pytest.mark.parametrize(("case", "zero_stage"), OTHER_STEP_CASES, ids=str)
def test_three_steps_on_two_axes_equal_one_process(case: Case, zero_stage: int) -> None:
    test_layout_steps.small_configuration()
    found = test_layout_steps.results(OTHER_STEP_CASES)
    test_layout_steps.check(case, found[case, zero_stage])
