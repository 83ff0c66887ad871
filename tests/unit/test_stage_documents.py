"""How stages keep documents apart: settings, their mistakes, lengths under PoSE, and a resume under other rules."""

from dataclasses import asdict, replace

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from data.packing.document_rules import BY_DOCUMENT, DocumentRules, Pose
from train.checkpointing.continuation import obstacles
from train.checkpointing.state import RunState
from train.configuration.compose import ConfigMistakes, compose_run, from_yaml, to_yaml
from train.configuration.schema import RunConfig
from train.report.stage_table import documents_words
from train.schedule.rope_base import bases_by_kind
from train.schedule.stages import Schedule, build_schedule

FIRST = "schedule.stages.first"
POSE = f"{FIRST}.pose={{target_length: 256, chunks: 3}}"


def run(*arguments: str) -> RunConfig:
    return compose_run(["schedule=small", "recipe=full_rope", *arguments])


def schedule(config: RunConfig) -> Schedule:
    built, found = build_schedule(config)
    assert built is not None, found
    return built


def test_rules_are_those_of_their_stage_and_are_kept_in_yaml() -> None:
    config = run(f"{FIRST}.document_mask=false", f"{FIRST}.reset_positions=false", POSE)
    shapes = list(schedule(config).shapes(0))
    rules = DocumentRules(False, False, Pose(3, 256))
    assert [shape.rules for shape in shapes] == [rules] * 10 + [BY_DOCUMENT] * 10
    assert asdict(from_yaml(to_yaml(config))) == asdict(config)


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("pose={target_length: 32}", "pose.target_length=32: must be at least sequence_length=64"),
        ("pose={target_length: 99, chunks: 65}", "pose.chunks=65: must be at most sequence_length=64"),
        ("pose={target_length: 99, chunks: 1}", "pose.chunks=1: must be a whole number from 2 up"),
        ("pose={chunks: 2}", "pose.target_length: must be given; it has no default"),
        ("pose=3", "pose=3: must be null, or a mapping with target_length, chunks"),
        ("pose={target: 99}", "did you mean schedule.stages.first.pose.target_length?"),
        ("document_mask=1024", "document_mask=1024: must be true or false"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(argument: str, says: str) -> None:
    try:
        _, lines = build_schedule(run(f"{FIRST}.{argument}"))
    except ConfigMistakes as error:
        lines = str(error).splitlines()
    (line,) = [line for line in lines if says in line]
    assert FIRST in line


def test_under_pose_the_length_of_a_stage_is_the_one_that_positions_reach() -> None:
    table = schedule(run(POSE, "schedule.stages.second.rope_base=ntk"))
    first, second = table.stages
    assert (first.shape.sequence_length, first.shape.position_length) == (64, 256)
    assert second.base.last < first.base.last, "positions reach 256 tokens, then 128"
    assert [table.at(0).lengths, table.at(5120).lengths] == [(256,), (128,)]
    assert table.at(0).at_length(64).lengths == (64,)
    assert table.at(0).at_length(512).lengths == (256, 512)


def test_going_on_under_other_rules_is_refused_unless_allowed() -> None:
    trained = run(f"{FIRST}.document_mask=false", POSE)
    point = schedule(trained).at(0)
    state = RunState(
        tokens_seen=512,
        stage="first",
        model=asdict(trained.model),
        rope_base=bases_by_kind(trained.model, point.rope_base),
        document_rules=asdict(point.stage.shape.rules),
    )

    def refused(config: RunConfig, state: RunState = state) -> list[str]:
        return obstacles(config, schedule(config), state, [])

    assert refused(trained) == []
    here = "schedule.stages.first"
    way_out = "restore the schedule, or set checkpoint.allow_changes=[document_rules]"
    assert refused(run()) == [
        f"{here}.document_mask=true: the checkpoint was trained with false; {way_out}",
        f"{here}.pose=null: the checkpoint was trained with {{chunks: 3, target_length: 256}}; {way_out}",
    ]
    assert refused(run("checkpoint.allow_changes=[document_rules]")) == []
    assert refused(run(), replace(state, document_rules={})) == [], "a checkpoint from before"
    # A stage that is not reached may have any rules.
    later = "schedule.stages.second.document_mask=false"
    assert refused(run(f"{FIRST}.document_mask=false", POSE, later)) == []


def test_the_report_names_rules_that_are_not_the_default() -> None:
    assert documents_words({}) == ""
    assert documents_words({"document_mask": True, "pose": None}) == ""
    row = {"document_mask": False, "reset_positions": False}
    assert documents_words(row) == "no mask, positions go on"
    pose = {"target_length": 8192, "chunks": 2}
    assert documents_words({"pose": pose}) == "PoSE to 8,192 in 2 chunks"
    assert documents_words({"pose": {"target_length": "x"}}) == ""
