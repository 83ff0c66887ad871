"""What a stage changes in kinds of layers: windows, rotations, scales; what it may not change."""

from typing import Any

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from model.config import ModelConfig
from model.layer_pattern import LayerSpec, layer_kinds
from train.configuration.compose import ConfigMistakes, compose_run
from train.configuration.schema import StageKindConfig, WindowRamp
from train.schedule.kinds import StageKinds
from train.schedule.stages import Schedule, build_schedule

MODEL = ModelConfig(window=128, layer_pattern=["window_rope", "full_nope", "chunk_rope"], chunk=64)


def windows(kind: str, window: int | WindowRamp, length: int, steps: list[int]) -> list[int | None]:
    """The window of a kind at the given steps of a stage of 1000 steps of 512 tokens."""
    kinds = StageKinds({kind: StageKindConfig(window=window)}, length, 512, 512_000)
    models = [kinds.model_at(MODEL, 512 * step) for step in steps]
    found = [layer_kinds(model)[kind].window for model in models]
    assert [dict(kinds.windows_at(MODEL, 512 * step))[kind] or None for step in steps] == found
    assert all(model.problems() == [] for model in models)
    return found


def test_skyladder_raises_the_window_by_an_eighth_of_a_key_a_step() -> None:
    # arXiv 2503.15450, section 3: w(t) = min(w_end, w_start + floor(t / 8)), w_start 32.
    ramp = WindowRamp(start=32, per_step=0.125)
    steps = [0, 7, 8, 15, 16, 799, 800, 999]
    assert windows("full_nope", ramp, 1024, steps) == [32, 32, 33, 33, 34, 131, 132, 156]
    assert windows("window_rope", ramp, 1024, [0, 767, 768, 999]) == [32, 127, 128, 128]


def test_a_ramp_of_a_full_kind_ends_without_a_window() -> None:
    ramp = WindowRamp(start=32, per_step=1.0)
    assert windows("full_nope", ramp, 64, [0, 31, 32, 999]) == [32, 63, None, None]
    assert windows("chunk_rope", WindowRamp(start=8), 64, [0, 500, 999]) == [8, 36, 63]
    assert windows("full_nope", 40, 64, [0, 999]) == [40, 40]


def test_a_ramp_grows_by_the_decimal_that_was_given() -> None:
    # 0.29 x 100 is 28.999... in binary floating point.
    ramp = WindowRamp(start=1, end=999, per_step=0.29)
    assert windows("window_rope", ramp, 1024, [99, 100, 101]) == [29, 30, 30]


def quickstart(*kinds: str) -> Schedule:
    """The schedule with these settings of kinds in its middle stage."""
    given = [f"+schedule.stages.middle.kinds.{kind}" for kind in kinds]
    found, mistakes = build_schedule(compose_run(["experiment=quickstart", *given]))
    assert found is not None, mistakes
    return found


def spec(schedule: Schedule, stage: int, kind: str = "window_rope") -> LayerSpec:
    """A kind of layer at the first step of a stage."""
    return layer_kinds(schedule.at(schedule.stages[stage].start).model)[kind]


def test_a_stage_drops_rotation_and_scales_queries_in_its_steps_only() -> None:
    schedule = quickstart(
        "window_rope={position: none, position_scale: {scale: drope, trained_length: 256}}"
    )
    before, dropped, after = (spec(schedule, stage) for stage in range(3))
    assert before == after
    assert before.rope is not None and before.position_scale is None
    assert dropped.rope is None and dropped.position_scale is not None
    assert dropped.position_scale.reads_length
    middle = schedule.stages[1]
    assert schedule.at(middle.start).at.length == middle.shape.sequence_length


def test_a_stage_brings_rotation_back() -> None:
    schedule, mistakes = build_schedule(
        compose_run(
            [
                "experiment=quickstart",
                "+model.kinds.window_rope.position=none",
                "+schedule.stages.long.kinds.window_rope={position: as_named, rope: {base: 500}}",
            ]
        )
    )
    assert schedule is not None, mistakes
    assert spec(schedule, 1).rope is None
    found = spec(schedule, 2).rope
    assert found is not None and found.base == 500.0


OF_MODEL = "belongs to the model, as its parameters do, and is the same in all stages; set"
REFUSED: dict[str, Any] = {
    "window_rope.sinks=true": f".sinks: {OF_MODEL} model.kinds.window_rope.sinks",
    "window_rope={sinks: true}": f".sinks: {OF_MODEL} model.kinds.window_rope.sinks",
    "window_rope.qk_norm=true": f".qk_norm: {OF_MODEL} model.kinds.window_rope.qk_norm",
    "window_rope.gate=sigmoid": f".gate: {OF_MODEL} model.kinds.window_rope.gate",
    "window_rope.qkv_bias=true": f".qkv_bias: {OF_MODEL} model.qkv_bias",
    "window_rope.position_scale=ssmax": ".position_scale: this scale has a parameter, which belongs to the model",
    "window_rope.window=128": ".window=128: has no effect, it is the model's; drop it",
    "window_rope.window.start=300": ".window.start=300: must be below the end of the ramp, 128",
    "full_nope.window=1024": ".window=1024: has no effect, there is none in the model",
    "full_nope.window={start: 1024, end: 2048}": ".window.start=1024: must be below sequence_length=1024",
    "full_nope.position=none": ".position: has no effect, full_nope has no rotation; drop it",
    "window_rope={position: none, rope: {base: 500}}": ".rope: has no effect with position=none",
    "window_rope.position=as_named": ".position=as_named: has no effect, it is the model's; drop it",
    "window_rope.position_scale=none": ".position_scale: has no effect, it is the model's; drop it",
    "window_rope={}": ": changes nothing; give rope, position, position_scale or window, or drop it",
    "full_rope.window=9": ": has no effect, model.layer_pattern has window_rope, full_nope; drop it",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_what_a_stage_cannot_change_is_refused_with_the_reason(setting: str) -> None:
    kind = setting.partition("=")[0].partition(".")[0]
    with pytest.raises(ConfigMistakes) as raised:
        found = compose_run(["experiment=quickstart", f"+schedule.stages.middle.kinds.{setting}"])
        raise ConfigMistakes(build_schedule(found)[1])
    says = f"schedule.stages.middle.kinds.{kind}{REFUSED[setting]}"
    assert any(line.startswith(says) for line in raised.value.mistakes), raised.value.mistakes


def test_a_learned_scale_of_the_model_cannot_be_left_out_in_a_stage() -> None:
    run = compose_run(
        [
            "experiment=quickstart",
            "+model.kinds.full_nope.position_scale=ssmax",
            "+schedule.stages.middle.kinds.full_nope.position_scale=swan",
        ]
    )
    (line,) = build_schedule(run)[1]
    assert "takes the place of model.kinds.full_nope.position_scale, which has a parameter" in line
