"""Settings of attention that a stage changes, over every axis, against one process whose model has them as its own.

Windows of every kind of layer, also of full and chunked ones; rotations, no rotation, scales of queries. Float64.
"""

import pytest

from model.at_step import AtStep
from model.documents import Documents
from model.layer_pattern import layer_kinds
from parallel.sequence.dealing import deal
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.route import Transport
from tests.parity.layout_cases import MORE_STAGE_CASES, STAGE_CASES, TOKENS, Case
from tests.parity.test_layouts import check, check_by, of_one_size, results


@pytest.mark.parametrize("case", STAGE_CASES, ids=str)
def test_every_gradient_equals_one_process(case: Case) -> None:
    check(case, results(of_one_size(STAGE_CASES, case.ranks))[case])


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["ring", "exchange"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_gradient_equals_one_process_for_all_dealings(
    monkeypatch: pytest.MonkeyPatch, ranks: int, transport: Transport
) -> None:
    check_by(transport, of_one_size(MORE_STAGE_CASES, ranks), monkeypatch)


def test_a_route_for_the_windows_of_the_model_is_noticed_in_a_stage_with_others() -> None:
    case = STAGE_CASES[0]
    reaches = {kind: spec.reach for kind, spec in layer_kinds(case.config).items()}
    dealing = deal("zigzag", [TOKENS], 2, {})
    share = build_share(dealing, Documents.of([TOKENS]), 0, reaches)
    layout = ShardedLayout.from_share(share)
    at = AtStep.of(case.at_stage, 500.0)
    for kind in ("near", "full_nope", "part"):
        with pytest.raises(AssertionError, match=f"{kind}: the route is for Reach"):
            layout.route_of(kind, at.specs[kind].reach)
    layout.route_of("wide", at.specs["wide"].reach)
