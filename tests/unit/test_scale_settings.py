"""Settings of scales of queries in a run: what is read, refused, warned of and compared with a checkpoint."""

from dataclasses import asdict
from typing import Any

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from model.huggingface.catalogue import family_for
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import layer_kinds
from model.position.scales.ssmax import SsmaxScale
from train.checkpointing.state import RunState, differences
from train.configuration import validate
from train.configuration.compose import ConfigMistakes, compose_run, from_yaml, to_yaml
from train.schedule.stages import build_schedule

KEY = "model.kinds.full_nope.position_scale"
NAMES = "none, llama4, ministral3, swan, ssmax, drope"


def run(*arguments: str) -> Any:
    return compose_run(["experiment=quickstart", *arguments])


def warned(*arguments: str) -> list[str]:
    config = run(*arguments)
    schedule, _ = build_schedule(config)
    assert schedule is not None
    return [line for line in validate.warnings(config, schedule) if "Hugging Face" not in line]


def test_a_scale_is_chosen_by_its_name_or_with_its_settings_and_kept() -> None:
    for arguments, expected in (
        ([f"{KEY}=ssmax"], SsmaxScale()),
        ([f"{KEY}.scale=ssmax", f"{KEY}.initial=0.43"], SsmaxScale(0.43)),
        (["model.kinds.full_nope={position_scale: {scale: ssmax, initial: 0.5}}"], SsmaxScale(0.5)),
    ):
        config = from_yaml(to_yaml(run(*arguments)))
        assert layer_kinds(config.model)["full_nope"].position_scale == expected


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([f"{KEY}=7"], f"{KEY}=7: must be a scale ({NAMES})"),
        ([f"{KEY}=ssmaxx"], f"{KEY}=ssmaxx: must be a scale ({NAMES}); did you mean ssmax?"),
        ([f"{KEY}=drope"], f"{KEY}.trained_length: must be given; it has no default"),
        ([f"{KEY}.scale=swan", f"{KEY}.log_base=1"], f"{KEY}.log_base=1: must be a finite number above 1"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_line(arguments: list[str], line: str) -> None:
    with pytest.raises(ConfigMistakes) as caught:
        run(*arguments)
    (mistake,) = caught.value.mistakes
    assert mistake.startswith(line)


def test_a_scale_that_does_nothing_in_this_run_or_is_bounded_by_a_window_is_warned_of() -> None:
    (line,) = warned(f"{KEY}=llama4")
    assert "full_nope layers is 1 for all positions of this run, which reach 4,096" in line
    (line,) = warned("model.kinds.window_rope.position_scale=ssmax")
    assert "at most 128 in these layers" in line
    assert warned(f"{KEY}=ssmax") == warned(f"{KEY}.scale=llama4", f"{KEY}.floor_scale=1024") == []


def test_no_family_takes_a_scale() -> None:
    with pytest.raises(CannotExpress) as caught:
        family_for(run(f"{KEY}=swan").model, 1e4)
    assert all(f"{KEY}: the queries" in reason for reason in caught.value.reasons)


@pytest.mark.parametrize(
    ("trained", "wanted", "allowed"),
    [("none", "swan", True), ("swan", "llama4", True), ("none", "ssmax", False), ("ssmax", "swan", False)],
)  # fmt: skip
def test_a_checkpoint_of_another_scale_is_refused_unless_it_has_no_parameter_and_is_allowed(
    trained: str, wanted: str, allowed: bool
) -> None:
    state = RunState(model=asdict(run(f"{KEY}={trained}").model))
    lines = [
        differences(
            state,
            run(f"{KEY}={wanted}").model,
            optimizer="adamw",
            rope_base={},
            data={},
            tokenizer={"sha256": "", "bos_id": None},
            allowed=words,
        )
        for words in ([], ["position_scale"])
    ]
    (line,) = lines[0]
    assert line.startswith(f"{KEY}={{")
    assert ("allow_changes=[position_scale]" in line) is allowed
    assert bool(lines[1]) is not allowed


def test_a_checkpoint_from_before_scales_goes_on_and_the_initial_value_may_differ() -> None:
    def refused(before: dict[str, Any], *arguments: str) -> list[str]:
        return differences(
            RunState(model=before),
            run(*arguments).model,
            optimizer="adamw",
            rope_base={},
            data={},
            tokenizer={"sha256": "", "bos_id": None},
            allowed=[],
        )

    older = asdict(run("model.kinds.window_rope.rope.base=500").model)
    del older["kinds"]["window_rope"]["position_scale"]
    assert refused(older, "model.kinds.window_rope.rope.base=500") == []
    learned = asdict(run(f"{KEY}=ssmax").model)
    assert refused(learned, f"{KEY}.scale=ssmax", f"{KEY}.initial=0.9") == []
