"""The checks see what they are there for: every planted fault makes one fail, and undone it passes again.

The faults are in `faults.py`, `scale_faults.py` and `form_faults.py`; what each shows stands in docs/numerics.md. To
see it all again:

    python -m pytest tests/parity/test_planted_faults.py -o log_cli=true --log-cli-level=INFO
"""

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from parallel.mesh import World, arrange, start
from ranks import run_on_ranks
from tests.parity import test_layout_steps, test_layouts
from tests.parity.faults import FAULTS as GENERAL_FAULTS
from tests.parity.faults import Fault
from tests.parity.form_faults import FORM_FAULTS
from tests.parity.layout_cases import Case
from tests.parity.scale_faults import SCALE_FAULTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "numerics.md"
RANKS = 2
FAULTS = (*GENERAL_FAULTS, *SCALE_FAULTS, *FORM_FAULTS)
SOUND = tuple(dict.fromkeys((fault.case, fault.in_steps) for fault in FAULTS))


def run(world: World, case: Case, in_steps: bool) -> Any:
    """What this rank finds."""
    if in_steps:
        return test_layout_steps.three_steps(world, case, zero_stage=1)
    return test_layouts.gradients(case, arrange(world, case.parallel().topology(RANKS)))


def check(case: Case, in_steps: bool, found: list[Any]) -> None:
    """As sound layouts are checked."""
    (test_layout_steps if in_steps else test_layouts).check(case, found)


@cache
def results() -> list[tuple[list[Any], list[Any]]]:
    """Of every rank: what it finds with each fault, and after them without any. One world for all."""
    test_layout_steps.small_configuration()

    def work(rank: int, world_size: int) -> Any:
        world = start(torch.device("cpu"), 60).world
        faulty = []
        for fault in FAULTS:
            with pytest.MonkeyPatch.context() as patch:
                fault.plant(patch)
                faulty.append(run(world, fault.case, fault.in_steps))
        # Last, so that a fault that was not undone would show.
        return faulty, [run(world, case, in_steps) for case, in_steps in SOUND]

    return run_on_ranks(work, RANKS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_noticed(fault: Fault) -> None:
    found = [faulty[FAULTS.index(fault)] for faulty, _ in results()]
    with pytest.raises(AssertionError, match=fault.shows) as noticed:
        check(fault.case, fault.in_steps, found)
    assert not re.search(fault.spares, str(noticed.value))
    logging.info("%s: %s", fault.name, noticed.value)


@pytest.mark.parametrize(("case", "in_steps"), SOUND, ids=str)
def test_without_a_fault_the_same_case_passes(case: Case, in_steps: bool) -> None:
    check(case, in_steps, [sound[SOUND.index((case, in_steps))] for _, sound in results()])


def test_the_pages_list_and_count_every_fault() -> None:
    page = PAGE.read_text()
    count = f"{len(FAULTS)} planted faults"
    assert count in page and count in (PAGE.parents[1] / "README.md").read_text()
    assert [fault.name for fault in FAULTS if fault.name not in page] == []
