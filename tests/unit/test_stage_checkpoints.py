"""A checkpoint says what held at its last step: exports write that, and a run with other settings hears it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from model.huggingface.refusal import CannotExpress
from train.checkpointing.continuation import obstacles
from train.checkpointing.state import RunState
from train.configuration.compose import compose_run
from train.configuration.typed_model import typed_model
from train.huggingface.config import choose_family, write_config
from train.huggingface.model_card import model_card
from train.schedule.rope_base import bases_by_kind, scheduled_base
from train.schedule.stages import Schedule, build_schedule

STEP = 512
PATTERN = "model.layer_pattern=[window_rope,full_rope]"


def scheduled(*arguments: str) -> Schedule:
    """Two stages of 10 steps, of 64 and of 128 tokens."""
    schedule, mistakes = build_schedule(compose_run(["schedule=small", *arguments]))
    assert schedule is not None, mistakes
    return schedule


def state_after(steps: int, *arguments: str) -> RunState:
    """The parts of `state.json` that the schedule decides."""
    schedule = scheduled(*arguments)
    point = schedule.at((steps - 1) * STEP)
    return RunState(
        step=steps,
        tokens_seen=steps * STEP,
        rope_base=bases_by_kind(point.model, point.rope_base),
        context_length=point.lengths[-1],
        lengths=list(point.lengths),
        document_rules=asdict(point.stage.shape.rules),
        model=asdict(point.model),
    )


def exported(state: RunState) -> dict[str, Any]:
    """The config.json."""
    model = typed_model(state.model)
    family = choose_family(model, scheduled_base(model, state.rope_base), state, "")
    return write_config(family, model, state, dtype="float32", end_token=0)


LADDER = (
    "recipe=llama",
    "+schedule.stages.first.kinds.full_rope={window: {start: 8, per_step: 8}}",
)


def test_a_checkpoint_inside_a_ramp_is_exported_with_its_window_and_after_it_without() -> None:
    inside = exported(state_after(3, *LADDER))
    assert (inside["model_type"], inside["sliding_window"]) == ("mistral", 24)
    for steps in (8, 10, 11):
        after = exported(state_after(steps, *LADDER))
        assert after["model_type"] == "llama" and "sliding_window" not in after


def test_layers_whose_rotation_was_dropped_are_exported_as_layers_without_one() -> None:
    drop = (
        "recipe=rnope_swa",
        "model.layer_pattern=[window_rope,window_rope,window_rope,full_rope]",
        "+schedule.stages.second.kinds.full_rope.position=none",
    )
    with pytest.raises(CannotExpress, match="cohere2 has no such layer"):
        exported(state_after(10, *drop))
    after = exported(state_after(11, *drop))
    assert after["model_type"] == "cohere2"
    assert after["layer_types"] == [*["sliding_attention"] * 3, "full_attention"]
    scale = "{position: none, position_scale: {scale: drope, trained_length: 64}}"
    scaled = (*drop[:2], f"+schedule.stages.second.kinds.full_rope={scale}")
    with pytest.raises(CannotExpress, match="no Hugging Face family takes the scale of DroPE"):
        exported(state_after(11, *scaled))


def test_the_model_card_says_window_rotation_and_length_of_the_last_step() -> None:
    def card(state: RunState) -> str:
        model = typed_model(state.model)
        return model_card(Path("run/checkpoints/step"), state, model, "Any", {}, name="any")

    inside = card(state_after(3, *LADDER))
    assert "| window | full_rope layers 24 keys, the token's own included |" in inside
    assert "| sequence length of the last step | 64 |" in inside and "not rotated" not in inside
    dropped = card(
        state_after(11, PATTERN, "+schedule.stages.second.kinds.full_rope.position=none")
    )
    assert "| not rotated | full_rope layers |" in dropped
    assert "| RoPE base | window layers 10000 |" in dropped


def refusals(state: RunState, *arguments: str) -> list[str]:
    """Why a run with these settings cannot go on from `state`."""
    run = compose_run(["schedule=small", *arguments])
    schedule, mistakes = build_schedule(run)
    assert schedule is not None, mistakes
    return obstacles(run, schedule, state, [])


DROPE = (
    "+schedule.stages.first.kinds.full_rope="
    "{position: none, position_scale: {scale: drope, trained_length: 32}}"
)
YARN = "+schedule.stages.first.kinds.full_rope.rope={scaling: yarn, factor: 4, original_length: 32}"
FOPE = "+schedule.stages.first.kinds.full_rope.rope={fourier: {sigma: 0.1}}"
LONGER = "schedule.stages.first.sequence_length=128"
# What the checkpoint's run has beyond the pattern; what the next one has; the words that allow it.
CHANGES: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ((LADDER[1],), (), ("window",)),
    ((), ("+model.kinds.window_rope.window=20",), ("window",)),
    ((DROPE,), (), ("position", "position_scale")),
    ((), (DROPE,), ("position", "position_scale")),
    ((YARN,), (), ("rope_scaling",)),
    (
        (YARN,),
        ("+schedule.stages.first.kinds.full_rope.position=none",),
        ("position",),
    ),
    ((DROPE,), (DROPE, LONGER), ("sequence_length",)),
    ((FOPE,), (FOPE, LONGER), ("sequence_length",)),
    ((), ("schedule.stages.first.rope_base=5e5",), ("rope_base",)),
    ((), ("schedule.stages.first.document_mask=false",), ("document_rules",)),
)


@pytest.mark.parametrize(("before", "now", "words"), CHANGES, ids=str)
def test_other_settings_than_those_of_the_last_step_are_refused_unless_allowed(
    before: tuple[str, ...], now: tuple[str, ...], words: tuple[str, ...]
) -> None:
    state = state_after(3, PATTERN, *before)
    assert refusals(state, PATTERN, *before) == []
    lines = refusals(state, PATTERN, *now)
    asked = {re.search(r"checkpoint.allow_changes=\[(\w+)\]", line)[1] for line in lines}  # type: ignore[index]
    assert asked == set(words), lines
    assert refusals(state, PATTERN, *now, f"checkpoint.allow_changes=[{','.join(words)}]") == []
    # In a later stage, which both have, nothing is asked.
    if not any(setting.startswith("+model") for setting in now):
        assert refusals(state_after(13, PATTERN, *before), PATTERN, *now) == []


def test_a_length_that_no_method_reads_is_not_compared() -> None:
    assert refusals(state_after(3, PATTERN), PATTERN, LONGER) == []


def test_one_window_may_be_given_in_two_ways() -> None:
    state = state_after(3, PATTERN, "model.window=24")
    own = ("model.window=99", "+model.kinds.window_rope.window=24")
    assert refusals(state, PATTERN, own[1]) == []
    in_stage = "+schedule.stages.first.kinds.window_rope.window=24"
    assert refusals(state, PATTERN, in_stage) == []
