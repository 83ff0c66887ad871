"""The table of stages as a pure function of tokens seen."""

from itertools import islice

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from model.layer_pattern import layer_kinds
from train.configuration.compose import ConfigMistakes, compose_run
from train.schedule.stages import Schedule, build_schedule, rotary_reach


def schedule(*arguments: str) -> Schedule:
    built, found = build_schedule(compose_run(["schedule=small", *arguments]))
    assert found == []
    assert built is not None
    return built


def test_stages_follow_each_other_without_gap() -> None:
    table = schedule()
    assert [(s.start, s.end, s.num_steps) for s in table.stages] == [
        (0, 5120, 10),
        (5120, 10240, 10),
    ]
    assert table.total_tokens == 10240


def test_tokens_are_rounded_up_to_whole_steps() -> None:
    table = schedule("schedule.stages.first.tokens=5121")
    assert table.stages[0].num_steps == 11
    assert table.stages[1].start == 11 * 512


@pytest.mark.parametrize(
    ("tokens", "name"), [(0, "first"), (5119, "first"), (5120, "second"), (10**9, "second")]
)
def test_stage_at(tokens: int, name: str) -> None:
    assert schedule().stage_at(tokens).name == name


def test_shapes_from_the_middle_are_the_tail_of_all_shapes() -> None:
    table = schedule()
    everything = list(table.shapes(0))
    assert [shape.sequence_length for shape in everything] == [64] * 10 + [128] * 10
    for step in (1, 9, 10, 19, 20):
        assert list(table.shapes(step * 512)) == everything[step:]
    assert next(islice(table.shapes(10_240), 1), None) is None


def test_run_wide_rate_falls_to_its_final_value_at_the_last_step() -> None:
    table = schedule()
    assert table.at(10_240 - 512).learning_rate == pytest.approx(2e-4)
    assert table.at(512).learning_rate == pytest.approx(2e-3)  # warm-up of two steps


def test_a_stage_may_have_its_own_rate_base_and_mix() -> None:
    table = schedule(
        "schedule.stages.second.learning_rate=5e-4",
        "schedule.stages.first.learning_rate={shape: linear, peak: 1e-2, final: 0.0}",
        "schedule.stages.second.rope_base={policy: ramp, end: 40000}",
    )
    assert table.at(5120 - 512).learning_rate == pytest.approx(0.0)
    assert table.at(5120).learning_rate == table.at(9000).learning_rate == 5e-4
    assert table.at(0).rope_base == table.at(5120).rope_base == 10_000
    assert table.at(5120 + 2560).rope_base == pytest.approx(20_000)


def test_mixes_are_weights_in_the_order_of_the_sources() -> None:
    sources = "+data.sources={web: {prefix: a, weight: 3}, books: {prefix: b, weight: 1}}"
    mix = "schedule.stages.second.data={books: 1.0}"
    table = schedule("data.corpus=''", sources, mix)
    assert [stage.shape.weights for stage in table.stages] == [(0.75, 0.25), (0.0, 1.0)]


def test_mistakes_of_all_stages_come_together_with_their_keys() -> None:
    with pytest.raises(ConfigMistakes) as caught:
        compose_run(
            [
                "schedule=small",
                "schedule.stages.first.tokens=0",
                "schedule.stages.second.rope_base=fast",
                "schedule.stages.second.learning_rate={peek: 1}",
                "schedule.stages.second.data={books: 1.0}",
            ]
        )
    assert caught.value.rest is not None
    built, found = build_schedule(caught.value.rest)
    assert built is None
    assert [line.split(":")[0] for line in caught.value.mistakes + found] == [
        "schedule.stages.first.tokens=0",
        "schedule.stages.second.rope_base=fast",
        "schedule.stages.second.learning_rate.peek",
        "schedule.stages.second.data",
    ]


@pytest.mark.parametrize(
    ("recipe", "reach"), [("rnope_swa", 128), ("full_rope", 4096), ("nope", 1), ("rnope", 4096)]
)
def test_rotary_reach_is_what_rotary_layers_see(recipe: str, reach: int) -> None:
    model = compose_run([f"recipe={recipe}", "model.window=128"]).model
    assert rotary_reach(model, 4096) == reach


def test_a_stage_may_have_its_own_layout_and_one_engine_serves_neighbours_that_share_one() -> None:
    table = schedule(
        "parallel.tensor=2", "schedule.stages.second.parallel={tensor: 1, sequence: 4}"
    )
    first, second = (stage.parallel for stage in table.stages)
    assert (first.tensor, first.sequence) == (2, 1)
    assert (second.tensor, second.sequence, second.zero_stage) == (1, 4, first.zero_stage)
    assert [stage.name for stage in table.leg(0)] == ["first"]
    assert [stage.name for stage in table.leg(5120)] == ["second"]
    for tokens in (0, 512, 5120, 9000):  # wherever a run begins, the engine is for the same stages
        assert [stage.name for stage in schedule().leg(tokens)] == ["first", "second"]
    assert len(list(table.shapes(512, until=5120))) == 9


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            "{tensr: 2}",
            "parallel.tensr: unknown key; did you mean schedule.stages.second.parallel.tensor?",
        ),
        ("{timeout_seconds: 5}", "schedule.stages.second.parallel.timeout_seconds: unknown key"),
        (
            "{sequence: two}",
            "schedule.stages.second.parallel.sequence=two: must be a whole number",
        ),
        (
            "{tensor: 0}",
            "schedule.stages.second.parallel.tensor=0: must be a whole number from 1 up",
        ),
        ("{zero_stage: 3, pipeline: 2}", "parallel.zero_stage=3: with parallel.pipeline=2"),
    ],
)
def test_an_impossible_overlay_is_refused_by_its_key(overlay: str, message: str) -> None:
    try:
        built, found = build_schedule(
            compose_run(["schedule=small", f"schedule.stages.second.parallel={overlay}"])
        )
        assert built is None
    except ConfigMistakes as error:
        found = error.mistakes
    assert any(message in line for line in found), found


def test_a_stage_changes_windows_and_rotations_of_its_steps_only() -> None:
    run = compose_run(
        [
            "experiment=quickstart",
            "+schedule.stages.middle.kinds.window_rope={window: {policy: ramp, start: 8, per_step: 2.5}}",
            "+schedule.stages.long.kinds.window_rope={position: none, window: 99}",
        ]
    )
    schedule, mistakes = build_schedule(run)
    assert schedule is not None, mistakes
    short, middle, long = schedule.stages

    def spec(tokens: int) -> tuple[int | None, bool]:
        found = layer_kinds(schedule.at(tokens).model)["window_rope"]
        return found.window, found.rope is not None

    step = middle.shape.batch_tokens
    assert spec(short.start) == (run.model.window, True)
    assert [spec(middle.start + n * step)[0] for n in (0, 1, 2, 50)] == [8, 10, 13, 128]
    assert spec(long.start) == (99, False)
    windows = [shape.windows for shape in schedule.shapes(middle.start, until=long.start + 1)]
    assert windows[1] == (("window_rope", 10),)
    assert windows[-1] == (("window_rope", 99),)
    assert schedule.at(long.start).lengths == (256, 1024, 4096)
