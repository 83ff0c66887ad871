"""Forms of attention over every axis: layers that have a form beside layers that have not, against one process."""

import pytest

from tests.parity.layout_cases import Case
from tests.parity.test_layouts import check, results

# tensor, pipeline, sequence, data, schedule, dealing, micro-batches, model, keep
CASES = (
    Case(2, 1, 1, 1, "-", "-", 1, "gated", "everything"),
    Case(1, 1, 2, 1, "-", "zigzag", 2, "gated", "attention"),
    Case(2, 1, 1, 1, "-", "-", 1, "scaled_llama", "input"),
    Case(1, 1, 2, 1, "-", "balanced", 2, "scaled", "everything"),
    Case(1, 2, 1, 1, "zbv", "-", 2, "scaled", "everything"),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_gradient_equals_one_process(case: Case) -> None:
    check(case, results(CASES)[case])
