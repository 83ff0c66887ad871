"""What a run is refused for before anything starts, and what it is only warned of."""

from pathlib import Path

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from train.configuration import room, validate
from train.configuration.compose import ConfigMistakes, compose_run
from train.schedule.stages import build_schedule


def problems(*arguments: str, world_size: int = 2) -> list[str]:
    mistakes: list[str] = []
    wrong: frozenset[str] = frozenset()
    try:
        config = compose_run(["experiment=quickstart", *arguments])
    except ConfigMistakes as error:
        assert error.rest is not None, error
        config, mistakes, wrong = error.rest, error.mistakes, error.wrong
    return mistakes + validate.rules(config, world_size, wrong) + validate.places(config)


def warnings(*arguments: str) -> list[str]:
    config = compose_run(["experiment=quickstart", *arguments])
    schedule, found = build_schedule(config)
    assert schedule is not None, found
    # Whether a model can be exported is another matter: tests/unit/test_check.py.
    return [line for line in validate.warnings(config, schedule) if "Hugging Face" not in line]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("schedule.stages.short.sequence_length=500", "must be a multiple of sequence_length=500"),
        ("schedule.start_base=1", "schedule.start_base=1.0: must be above 1"),
        ("parallel.zero_stage=0", "or train.precision=float32"),
        ("parallel.zero_stage=4", "must be one of 0, 1, 2, 3"),
        ("parallel.tensor=4", "4 must divide the number of ranks, 2; start a multiple of 4"),
        ("parallel.sequence=0", "parallel.sequence=0: must be a whole number from 1 up"),
        ("parallel.pipeline_schedule=gpipe", "must be one of 1f1b, interleaved_1f1b, zbv"),
        ("parallel.sequence_layout=striped", "must be one of zigzag, balanced, contiguous"),
        ("parallel.pipeline_split=[2,2]", "has no effect with parallel.pipeline=1"),
        ("schedule.stages.long.parallel={tensor: 4}", "schedule.stages.long.parallel: tensor x"),
        ("train.precision=float16", "must be one of float32, bfloat16"),
        ("optimizer.beta2=1.0", "from 0 to below 1"),
        ("run_name=a/b", "plain folder name"),
        ("checkpoint.keep=0", "from 1 up"),
        ("logging.wandb.mode=on", "must be one of offline"),
        ("train.max_steps=0", "from 1 up"),
        ("model.num_kv_heads=4", "must be divisible"),
        ("data.packing=first_fit", "best_fit"),
        ("data.corpus=''", "data.sources"),
        ("optimizer.name=lion", "must be adamw"),
        ("optimizer.epsilon=nan", "above 0"),
        ("optimizer.weight_decay=nan", "finite number from 0 up"),
        ("train.z_loss=nan", "a finite number from 0 up"),
        ("train.spikes.action=jump", "must be one of ignore, stop, skip, rollback"),
        ("train.spikes.window=4", "a whole number from 8 up"),
        ("train.spikes.threshold=nan", "a finite number from 1 up"),
        ("train.spikes.action=skip", "train.max_skipped_steps of at least 1"),
        ("train.spikes={action: rollback, patience: 52}", "keep=2 of every 50 steps do not reach"),
        (
            "train.spikes={action: stop, window: 512}",
            "first 256 steps of a stage, and the longest has 256",
        ),
        (
            "schedule.stages.long.learning_rate=fast",
            "or null, or a shape (constant, linear, cosine, wsd)",
        ),
        ("schedule.stages.long.learning_rate={shap: wsd}", "learning_rate.shap"),
        (
            "schedule.stages.long.rope_base={policy: stepped, steps: [1, 2]}",
            "[a whole number from 0 up, a finite number above 1]",
        ),
        (
            "schedule.stages.long.rope_base={policy: ramp, end: 2e4, tokens: many}",
            "whole number from 1 up or null",
        ),
        ("paths.outputs=/etc/hostname/outputs", "not a folder that can be written"),
    ],
)
def test_each_mistake_is_one_line_with_a_way_out(argument: str, says: str) -> None:
    found = problems(argument)
    assert found, argument
    assert any(says in line for line in found), found
    assert all("\n" not in line for line in found)


def test_a_checkpoint_to_resume_from_must_be_there(tmp_path: Path) -> None:
    """Of a run without a checkpoint of its own, whatever `make train` has left in outputs/."""
    (line,) = problems("checkpoint.resume=nowhere", f"paths.outputs={tmp_path}")
    assert "no such folder" in line


def test_a_rollback_needs_checkpoints_between_stages() -> None:
    assert problems("train.spikes.action=rollback") == []
    (line,) = problems("train.spikes.action=rollback", "checkpoint.every_steps=0")
    assert "set checkpoint.every_steps" in line


def test_missing_corpus_names_the_command_that_makes_it() -> None:
    found = problems("data.corpus=''", "+data.sources={web: {prefix: corpus/web, weight: 1}}")
    assert len(found) == 1
    assert f"ropewalk prepare --input PATH --output {Path.cwd()}/corpus/web" in found[0]


def test_world_that_does_not_fit_names_every_stage() -> None:
    found = problems(world_size=3)
    assert [line.split(".batch_tokens")[0] for line in found] == [
        "schedule.stages.short",
        "schedule.stages.middle",
        "schedule.stages.long",
    ]


def test_disk_without_room_for_the_checkpoints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    found = problems(f"paths.outputs={tmp_path}")
    assert len(found) == 1
    assert "0.00 GB are free" in found[0]


def test_checkpoints_that_lie_there_already_are_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 40_000_000})
    )
    assert len(problems(f"paths.outputs={tmp_path}")) == 1  # three of 28 MB
    held = tmp_path / "quickstart/checkpoints/step_00000010"
    held.mkdir(parents=True)
    (held / "rank_00000.safetensors").write_bytes(bytes(50_000_000))
    assert problems(f"paths.outputs={tmp_path}") == []


def test_a_wrong_model_does_not_hide_a_wrong_schedule() -> None:
    found = problems("model.num_kv_heads=4", "schedule.stages.long.sequence_length=999")
    assert any("model.num_heads" in line for line in found)
    assert any("sequence_length=999" in line for line in found)


@pytest.mark.parametrize(
    "argument",
    [
        "schedule.stages.middle.kinds.full_nope.window=-2",
        "schedule.stages.middle.kinds.full_nope.window={policy: ramp}",
        "model.kinds.window_rope.rope={scaling: longrope, original_length: 8, short_factors: 3, long_factors: [1, a]}",
    ],
)
def test_a_wrong_value_is_no_second_mistake(argument: str) -> None:
    """A rule reads the value that replaces a wrong one: null, or an empty list."""
    for line in problems(argument):
        assert "must be" in line, line


def test_room_is_asked_for_where_the_outputs_will_be(tmp_path: Path) -> None:
    assert problems(f"paths.outputs={tmp_path}/not/yet/there") == []


def test_raising_the_base_of_a_windowed_hybrid_is_warned_of() -> None:
    assert warnings() == []
    (line,) = warnings("schedule.stages.long.rope_base=500000")
    assert "in a windowed hybrid a higher base hurts" in line


def test_full_rope_below_the_bound_is_warned_of_and_safe_is_not() -> None:
    found = warnings("recipe=full_rope")
    assert [line.split(":")[0] for line in found] == ["stage middle", "stage long"]
    assert "separates similar from random keys only up to" in found[0]
    assert (
        warnings("recipe=full_rope", *(f"schedule.stages.{s}.rope_base=safe" for s in ("short", "middle", "long")),
                 *(f"schedule.stages.{s}.sequence_length=512" for s in ("middle", "long")))
        == []
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["parallel.tensor=4"], "model.num_heads=6 must be divisible"),
        (
            ["parallel.tensor=3", "model.num_heads=6"],
            "model.intermediate_size=512 must be divisible",
        ),
        (["parallel.tensor=2", "model.num_kv_heads=3"], "num_kv_heads=3 must divide it or be"),
        (["parallel.sequence=2", "model.attention_backend=dense"], "the ring chooses its kernels"),
        (["schedule.stages.long.parallel={zero_stage: 0}"], "no float32 master weights"),
        (["parallel.pipeline=2", "parallel.zero_stage=2"], "use parallel.zero_stage=1"),
        (["parallel.pipeline=2", "parallel.zero_stage=3"], "use parallel.zero_stage=1"),
        (
            ["parallel.sequence=2", "parallel.zero_stage=0"],
            "parallel.zero_stage=0: is for the data",
        ),
        (["parallel.pipeline=2", "parallel.pipeline_split=[3,2]"], "parallel.pipeline_split"),
        (["parallel.pipeline=12"], "stages"),
        (
            [
                "parallel.pipeline=2",
                "parallel.pipeline_schedule=zbv",
                "train.keep_for_backward=input",
            ],
            "keep_for_backward=input: zbv",
        ),
        (
            ["parallel.pipeline=4", "schedule.stages.short.batch_tokens=4096"],
            "micro-batches a data rank and step on parallel.pipeline=4",
        ),
        (
            ["parallel.sequence=3", "parallel.sequence_layout=zigzag"],
            "schedule.stages.short.micro_batch_tokens=1024: ",
        ),
        (["parallel.tensor=2", "parallel.sequence=2", "model.window=0"], "model.window=0"),
    ],
    ids=" ".join,
)
def test_an_impossible_layout_is_refused_with_the_value_and_the_rule(
    arguments: list[str], says: str
) -> None:
    found = problems(*arguments, world_size=12)
    assert any(says in line for line in found), found
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "arguments",
    [
        ["parallel.tensor=2"],
        ["parallel.pipeline=2", "parallel.sequence=2"],
        ["parallel.sequence=4", "parallel.sequence_layout=balanced"],
        ["parallel.tensor=2", "schedule.stages.long.parallel={tensor: 1, sequence: 4}"],
        [
            "parallel.pipeline=2",
            "parallel.pipeline_schedule=zbv",
            "parallel.pipeline_split=[1,1,1,1]",
        ],
    ],
    ids=" ".join,
)
def test_a_possible_layout_is_not_refused(arguments: list[str]) -> None:
    assert problems(*arguments, world_size=4) == []


def test_weights_of_every_head_in_norms_without_weights_have_no_effect() -> None:
    norms = ("model.qk_norm=true", "model.qk_norm_over=each_head")
    assert problems(*norms) == []
    (said,) = problems(*norms, "model.qk_norm_weight=false")
    assert said.startswith("model.qk_norm_over=each_head: has no effect")
