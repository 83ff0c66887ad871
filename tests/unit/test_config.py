"""Every shipped YAML composes and is sound; every mistake on the command line is named at once."""

from dataclasses import asdict
from itertools import product

import pytest

from model.flops import parameter_count
from model.layer_pattern import KindConfig
from model.position.linear import LinearRope
from train.configuration import validate
from train.configuration.compose import (
    ConfigMistakes,
    compose_run,
    from_yaml,
    to_yaml,
)
from train.configuration.groups import groups
from train.configuration.keys import key_mistake
from train.configuration.schema import RunConfig
from train.schedule.stages import build_schedule


def mistakes(*arguments: str) -> list[str]:
    with pytest.raises(ConfigMistakes) as caught:
        compose_run(arguments)
    return caught.value.mistakes


# llama31_128k is for one model, which tests/unit/test_recipes.py has.
@pytest.mark.parametrize("experiment", sorted({*groups()["experiment"]} - {"llama31_128k"}))
def test_every_experiment_is_sound(experiment: str, imported: str) -> None:
    arguments = [f"experiment={experiment}"]
    if experiment.startswith("extend_"):
        arguments += [f"checkpoint.resume={imported}", "data.sources.texts.prefix=texts"]
    if experiment == "to_128k":
        arguments += ["data.sources.texts.prefix=texts", "data.heldout=heldout"]
    config = compose_run(arguments)
    world_size = {"quickstart_4d": 4, "posgen": 1}.get(experiment, 2)
    assert validate.rules(config, world_size) == []


@pytest.mark.parametrize(
    ("model", "recipe"),
    list(product(sorted(set(groups()["model"]) - {"from_huggingface"}), groups()["recipe"])),
    ids="-".join,
)
def test_every_model_takes_every_recipe(model: str, recipe: str) -> None:
    """The tiny model gets as many layers as the longest pattern has."""
    layers = ["model.num_layers=6"] if model == "tiny" else []
    config = compose_run([f"model={model}", f"recipe={recipe}", *layers])
    assert config.model.problems() == []


@pytest.mark.parametrize("schedule", groups()["schedule"])
def test_every_schedule_resolves(schedule: str) -> None:
    arguments = [f"schedule={schedule}"]
    if schedule.startswith(("extend_", "llama31_")):  # goes on from a model's base
        arguments.append("schedule.start_base=10000")
    if schedule in ("skyladder_small", "drope_small", "posgen"):  # change full layers that rotate
        arguments.append("recipe=llama")
    resolved, found = build_schedule(compose_run(arguments))
    assert found == []
    assert resolved is not None
    assert len(resolved.stages) >= 2


def test_8b_preset_is_the_published_model() -> None:
    # The Cohere2 block at Command R7B's shape: arXiv 2501.18795 and its released configuration.
    assert parameter_count(compose_run(["model=8b"]).model) == 8_028_033_024


@pytest.mark.parametrize(("model", "millions"), [("125m", 125), ("1b", 1000), ("3b", 3000)])
def test_preset_sizes_are_what_their_names_say(model: str, millions: int) -> None:
    count = parameter_count(compose_run([f"model={model}"]).model) / 1e6
    assert count == pytest.approx(millions, rel=0.15)


def test_quickstart_keeps_the_promise_of_growing_context() -> None:
    schedule, _ = build_schedule(compose_run(["experiment=quickstart"]))
    assert schedule is not None
    lengths = [stage.shape.sequence_length for stage in schedule.stages]
    assert len(lengths) >= 3
    assert lengths == sorted(lengths)
    assert lengths[-1] >= 8 * lengths[0]


def test_command_line_wins_and_scientific_numbers_are_integers() -> None:
    config = compose_run(["experiment=quickstart", "schedule.stages.long.tokens=1e9", "seed=7"])
    assert config.schedule.stages["long"].tokens == 1_000_000_000
    assert config.seed == 7


def test_stages_can_be_added_and_removed() -> None:
    config = compose_run(
        [
            "schedule=small",
            "~schedule.stages.first",
            "+schedule.stages.third={tokens: 4096, sequence_length: 256, batch_tokens: 512, "
            "micro_batch_tokens: 256, rope_base: {policy: ntk}}",
        ]
    )
    assert list(config.schedule.stages) == ["second", "third"]


def test_a_removed_key_has_its_default_and_what_has_none_can_be_given_anew() -> None:
    config = compose_run(["seed=7", "~seed", "~model.window"])
    assert (config.seed, config.data.seed, config.model.window) == (0, 0, 128)
    stage = "{tokens: 4096, sequence_length: 256, batch_tokens: 512, micro_batch_tokens: 256}"
    anew = ["~schedule.stages", "+schedule.stages={one: " + stage + "}"]
    anew += ["~model.layer_pattern", "+model.layer_pattern=[full_rope]"]
    config = compose_run(anew)
    assert (list(config.schedule.stages), config.model.layer_pattern) == (["one"], ["full_rope"])
    assert mistakes("~run_name") == ["run_name: must be given; it has no default"]
    assert "there is none to remove; did you mean seed?" in mistakes("~sed")[0]


def test_resolved_yaml_composes_to_the_same_run() -> None:
    config = compose_run(["experiment=quickstart"])
    assert from_yaml(to_yaml(config)) == config


def test_all_mistakes_come_together_and_each_names_a_way_out() -> None:
    found = mistakes(
        "experiment=quickstrat",
        "model.num_layer=4",
        "schedule.stages.lng.tokens=5",
        "learning_rate=1",
        "nonsense",
    )
    assert len(found) == 5
    text = "\n".join(found)
    assert "experiment=quickstrat: no such experiment; did you mean quickstart?" in text
    assert "model.num_layer=4: unknown key; did you mean model.num_layers?" in text
    assert "there is no lng in schedule.stages; did you mean long?" in text
    assert "did you mean schedule.stages.NAME.learning_rate.peak?" in text
    assert "nonsense: not an argument; write KEY=VALUE" in text


def test_wrong_types_come_together() -> None:
    found = mistakes("model.num_layers=four", "train.max_steps=1.5", "model.qk_norm=perhaps")
    assert [line.split("=")[0] for line in found] == [
        "model.num_layers",
        "model.qk_norm",
        "train.max_steps",
    ]


def test_run_wide_learning_rate_has_no_unknown_keys() -> None:
    (line,) = mistakes("schedule=small", "+schedule.learning_rate.pek=1")
    assert "did you mean schedule.learning_rate.peak?" in line


def test_a_sweep_is_one_value_too_many() -> None:
    assert mistakes("seed=1,2") == ["seed=1,2: give one value; a list is written [1,2]"]


def test_a_job_number_is_a_run_name() -> None:
    assert compose_run(["run_name=2024"]).run_name == "2024"


def test_a_source_is_made_by_naming_its_prefix() -> None:
    config = compose_run(["data=files", "data.sources.web.prefix=corpus/web"])
    assert config.data.sources["web"].weight == 1.0
    assert "did you mean data.sources.web.prefix?" in mistakes(
        "data=files", "data.sources.web.prefix=corpus/web", "data.sources.web.prefx=corpus/web"
    )[0]  # fmt: skip


def test_a_value_has_no_keys_below_it() -> None:
    assert "single value" in (key_mistake("seed.more", {}) or "")
    assert key_mistake("schedule.learning_rate.peak", {}) is None


def test_schema_has_a_default_for_everything_but_the_run_itself() -> None:
    config = compose_run([])
    rebuilt = RunConfig(run_name=config.run_name, schedule=config.schedule)
    assert asdict(rebuilt)["optimizer"] == asdict(config)["optimizer"]


def test_the_model_of_an_imported_checkpoint_is_taken_whole_and_can_be_changed(
    imported: str,
) -> None:
    arguments = ["model=from_huggingface", f"checkpoint.resume={imported}"]
    scaled = ("scaling=linear", "factor=4")
    config = compose_run([*arguments, *(f"model.kinds.full_rope.rope.{key}" for key in scaled)])
    assert config.model.layer_pattern == ["full_rope"]  # and not the default recipe's
    assert config.model.kinds == {"full_rope": KindConfig(rope=LinearRope(factor=4.0))}
    assert (config.schedule.start_base, config.schedule.start_length) == (500_000.0, 8192)
    begin = ["schedule.start_base=77777", "schedule.stages.short.rope_base=keep"]
    assert compose_run([*arguments, *begin]).schedule.start_base == 77_777.0  # as asked for
    assert "has no effect" in mistakes(*arguments, begin[0])[0]
    assert "recipe=llama: has no effect" in mistakes(*arguments, "recipe=llama")[0]
    assert "give checkpoint.resume=DIR" in mistakes("model=from_huggingface")[0]
    assert "no such folder" in mistakes("model=from_huggingface", "checkpoint.resume=/no/such")[0]


def test_the_extension_of_an_imported_model_begins_at_its_own_base(imported: str) -> None:
    raised, kept = (
        build_schedule(
            compose_run(
                [
                    f"experiment=extend_{name}",
                    f"checkpoint.resume={imported}",
                    "data.sources.texts.prefix=texts",
                ]
            )
        )[0]
        for name in ("llama", "cohere2")
    )
    assert raised is not None
    assert kept is not None
    assert raised.at(0).rope_base == 500_000.0
    assert raised.at(10**9).rope_base == raised.at(raised.total_tokens).rope_base == 8e6
    assert kept.at(0).rope_base == kept.at(kept.total_tokens).rope_base == 500_000.0
