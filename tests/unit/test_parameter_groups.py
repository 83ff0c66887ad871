"""Groups of parameters: which parameters a group has, what a stage changes in it, and what is refused in one line."""

from dataclasses import replace
from typing import Any

import pytest

from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.parameters import parameter_names
from parallel.config import OptimizerConfig, ParameterGroup
from parallel.engine.groups import NO_GROUP, GroupSettings, group_problems, groups_of
from train.configuration.compose import compose_all, compose_run
from train.configuration.schema import StageGroupConfig
from train.configuration.validate import rules
from train.schedule.groups import stage_group_problems, stage_groups, untrained_stages
from train.schedule.stages import build_schedule

MODEL = ModelConfig(
    num_layers=4,
    layer_pattern=["window_rope", "near", "window_rope", "full_nope"],
    kinds={"near": KindConfig(like="window_rope", window=16)},
)
NAMES = parameter_names(MODEL, range(4))


def members(groups: dict[str, ParameterGroup], group: str) -> set[str]:
    return {name for name, of in groups_of(NAMES, MODEL, groups).items() if of == group}


def test_a_parameter_is_in_the_last_group_that_it_matches() -> None:
    groups = {
        "rest": ParameterGroup(frozen=True),
        "long": ParameterGroup(kinds=["full_*"]),
        "queries": ParameterGroup(parameters=["attention.q_proj.*", "layers.0.attention.k*"]),
    }
    queries = {f"layers.{layer}.attention.q_proj.weight" for layer in range(4)}
    assert members(groups, "queries") == queries | {"layers.0.attention.k_proj.weight"}
    assert members(groups, "long") == {n for n in NAMES if n.startswith("layers.3.")} - queries
    assert members(groups, NO_GROUP) == set()
    assert {"embedding.weight", "norm.weight"} < members(groups, "rest")


def test_a_kind_is_matched_by_its_own_name_and_ends_belong_to_no_kind() -> None:
    groups = {"near": ParameterGroup(kinds=["near"]), "windows": ParameterGroup(kinds=["window_*"])}
    assert members(groups, "near") == {n for n in NAMES if n.startswith("layers.1.")}
    assert members(groups, "windows") == {
        n for n in NAMES if n.startswith(("layers.0.", "layers.2."))
    }
    assert {"embedding.weight", "norm.weight"} < members(groups, NO_GROUP)


def test_a_pattern_that_names_a_parameter_outside_the_layers_takes_none_inside_them() -> None:
    every = {name for name in NAMES if name.endswith("norm.weight")}
    for pattern, taken in {
        "norm.weight": {"norm.weight"},
        "layers.*.norm.weight": {f"layers.{layer}.norm.weight" for layer in range(4)},
        "*norm.weight": every,
    }.items():
        assert members({"norms": ParameterGroup(parameters=[pattern])}, "norms") == taken
    assert len(every) > 4


def test_without_groups_every_parameter_is_ordinary() -> None:
    assert set(groups_of(NAMES, MODEL, {}).values()) == {NO_GROUP}
    assert stage_groups({}, {}) == {NO_GROUP: GroupSettings()}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"a": ParameterGroup(kinds=["full_rope"])}, "optimizer.groups.a.kinds=full_rope: matches no kind"),
        ({"a": ParameterGroup(parameters=["*.bias"])}, "optimizer.groups.a.parameters=*.bias: matches no"),
        (
            {"a": ParameterGroup(kinds=["near"]), "b": ParameterGroup()},
            "optimizer.groups.a: has no parameter, or later groups take all",
        ),
        (
            {"a": ParameterGroup(parameters=["*norm.weight"], weight_decay_factor=2.0)},
            "optimizer.groups.a.weight_decay_factor: has no effect where no parameter of the group has weight decay",
        ),
        ({"a b": ParameterGroup()}, "optimizer.groups.a b: a group's name is made of"),
    ],
)  # fmt: skip
def test_a_group_without_parameters_is_refused(
    groups: dict[str, ParameterGroup], says: str
) -> None:
    (found,) = group_problems(MODEL, groups)
    assert found.startswith(says)


def test_a_pattern_that_matches_no_parameter_is_told_the_most_similar_names() -> None:
    (line,) = group_problems(
        replace(MODEL, tie_embeddings=False), {"a": ParameterGroup(parameters=["head.weight"])}
    )
    assert "; there are lm_head.weight, " in line


def test_a_tied_head_is_told_the_name_of_its_weight() -> None:
    (line,) = group_problems(MODEL, {"a": ParameterGroup(parameters=["lm_head.*"])})
    assert line.endswith(
        "the head is the embedding (model.tie_embeddings=true); give embedding.weight"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"b": StageGroupConfig(frozen=True)}, "s.groups.b: is no group of optimizer.groups, there are a"),
        ({"a": StageGroupConfig()}, "s.groups.a: changes nothing"),
        ({"a": StageGroupConfig(learning_rate_factor=0.5)}, "s.groups.a.learning_rate_factor=0.5: has no effect"),
        (
            {"a": StageGroupConfig(frozen=True, weight_decay_factor=2.0)},
            "s.groups.a.weight_decay_factor: has no effect where the group is frozen",
        ),
    ],
)  # fmt: skip
def test_a_change_of_a_stage_without_effect_is_refused(
    change: dict[str, StageGroupConfig], says: str
) -> None:
    groups = {"a": ParameterGroup(kinds=["near"], learning_rate_factor=0.5)}
    (found,) = stage_group_problems(MODEL, groups, change, "s")
    assert found.startswith(says)


def test_nothing_trains_in_a_stage_or_in_all_of_them_is_refused_with_one_line() -> None:
    stage, still = {"all": StageGroupConfig()}, {"all": StageGroupConfig(frozen=True)}
    says = ", so nothing trains; add a last group that is not frozen, with the parameters to train"
    for stages, subject in (
        ({"short": stage, "long": still}, "schedule.stages.long: every parameter is frozen"),
        ({"a": still, "b": still}, "optimizer.groups: every parameter is frozen in every stage"),
    ):
        found = untrained_stages(MODEL, {"all": ParameterGroup()}, stages)
        assert found == [subject + says]


def test_nothing_trains_is_not_said_where_a_group_of_a_stage_had_a_wrong_value() -> None:
    words = ["optimizer.groups.all.frozen=true", "schedule.stages.long.groups.all.frozen=maybe"]
    composed = compose_all(["experiment=quickstart", *words])
    assert composed.config is not None
    found = rules(composed.config, 1, composed.wrong)
    assert [line for line in found if "nothing trains" in line] == []


def run_with(*words: str) -> Any:
    return compose_run(["experiment=quickstart", *words])


def test_stages_with_the_same_parameters_frozen_share_an_engine_and_others_do_not() -> None:
    config = run_with(
        "optimizer.groups.windows={kinds: [window_rope], learning_rate_factor: 0.5}",
        "schedule.stages.middle.groups.windows.learning_rate_factor=0.25",
        "schedule.stages.long.groups.windows.frozen=true",
    )
    schedule, found = build_schedule(config)
    assert schedule is not None and not found
    short, middle, long = schedule.stages
    assert schedule.leg(0) == (short, middle)
    assert schedule.leg(middle.end) == (long,)
    factors = [stage.groups["windows"].learning_rate_factor for stage in schedule.stages]
    assert factors == [0.5, 0.25, 0.5]
    assert [sorted(stage.frozen) for stage in schedule.stages] == [[], [], ["windows"]]


def test_groups_are_judged_with_the_run() -> None:
    config = run_with("optimizer.groups.x={kinds: [chunk_rope], frozen: true}")
    assert any("optimizer.groups.x.kinds=chunk_rope" in line for line in rules(config, 1))
    without = replace(config, optimizer=OptimizerConfig())
    assert rules(without, 1) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("{frozn: true}", "optimizer.groups.a.frozn: unknown key; did you mean optimizer.groups.a.frozen?"),
        ("{kinds: [near], learning_rate_factor: 0}", "optimizer.groups.a.learning_rate_factor=0: must be"),
        ("{kinds: near, frozen: true}", "optimizer.groups.a.kinds=near: must be a list"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_group_is_reported_alone(wrong: str, says: str) -> None:
    composed = compose_all(["experiment=quickstart", f"optimizer.groups={{a: {wrong}}}"])
    assert composed.config is not None
    found = [*composed.mistakes, *rules(composed.config, 1, composed.wrong)]
    (line,) = [line for line in found if "matches no kind" not in line]
    assert line.startswith(says)


def test_a_stage_that_gives_patterns_is_told_where_they_belong() -> None:
    words = ["optimizer.groups.a={kinds: [full_nope], frozen: true}"]
    words += ["schedule.stages.long.groups.a={kinds: [window_rope], frozen: false}"]
    (line,) = compose_all(["experiment=quickstart", *words]).mistakes
    assert line == (
        "schedule.stages.long.groups.a.kinds: is the same in all stages; set optimizer.groups.a.kinds"
    )
