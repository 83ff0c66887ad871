"""Names and values of other systems are answered with ours, and one mistake is one line."""

import re
from collections.abc import Callable

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from train.__main__ import main
from train.configuration.keys import known_keys
from train.configuration.other_names import OTHER_NAMES


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that arguments are refused with."""

    def line(*arguments: str) -> str:
        assert main(["--check", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1, said
        assert said.startswith("train: error: ")
        return said.removeprefix("train: error: ").rstrip("\n")

    return line


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_every_name_leads_to_a_key_that_there_is(name: str) -> None:
    meaning, keys = OTHER_NAMES[name], known_keys()
    named = (
        [meaning]
        if " " not in meaning
        else re.findall(r"(?:parallel|checkpoint)\.[\w.]+\w", meaning)
    )
    for key in named:
        assert key.replace("kinds.full_rope", "kinds.NAME") in keys, name
    assert name not in keys


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (
            "train.lr=3",
            "did you mean schedule.stages.NAME.learning_rate.peak? NAME is one of short",
        ),
        ("lr=3", "unknown key; did you mean schedule.stages.NAME.learning_rate.peak?"),
        ("optimizer.name", "has no value; write optimizer.name=VALUE"),
        ("lr", "has no value; write schedule.learning_rate.peak=VALUE"),
        ("optimizer=adamw", "did you mean optimizer.name=adamw?"),
        ("seed=abc", "must be a whole number from 0 up; for example 0"),
        ("train.compile_regions=true", "must be one of auto, always, never; did you mean always?"),
        ("logging.wandb.mode=false", "did you mean disabled?"),
        ("optimizer.name=adam", "optimizer.name=adam: must be adamw"),
        ("train.device=gpu", "must be one of auto, cpu, cuda; did you mean cuda?"),
        ("train.precision=bf16", "did you mean bfloat16?"),
        ("per_device_train_batch_size=4", "did you mean schedule.stages.NAME.micro_batch_tokens?"),
        ("training.local_batch_size=4", "did you mean schedule.stages.NAME.micro_batch_tokens?"),
        ("tensor_model_parallel_size=2", "did you mean parallel.tensor?"),
        ("parallel.dp=2", "the number of data ranks is the world size divided by"),
        ("model.rope_theta=5e5", "did you mean schedule.stages.NAME.rope_base?"),
        ("activation_checkpoint.mode=full", "did you mean train.keep_for_backward?"),
        ("save_steps=100", "did you mean checkpoint.every_steps?"),
        ("+train.lr=2", "did you mean schedule.learning_rate.peak?"),
    ],
)
def test_a_name_of_another_system_is_answered_with_ours(
    refused: Callable[..., str], argument: str, says: str
) -> None:
    assert says in refused(argument)


def test_the_learning_rate_of_the_run_is_meant_where_stages_have_none(
    refused: Callable[..., str],
) -> None:
    line = refused("schedule=small", "lr=3")
    assert line == "lr=3: unknown key; did you mean schedule.learning_rate.peak?"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--lr", "3e-4"],
            "--lr: settings are written without dashes; give schedule.learning_rate",
        ),
        (
            ["--max_steps=3"],
            "--max_steps=3: settings are written without dashes; give train.max_steps=3",
        ),
        (["--train.max_steps", "5"], "give train.max_steps=5"),
        (["--seed", "5"], "give seed=5"),
        (["--tokenizer_name", "x"], "`ropewalk prepare --tokenizer FILE`"),
        (["--chek"], "--chek: unknown; did you mean --check?"),
    ],
)
def test_an_option_of_another_program_is_one_line_with_its_value(
    refused: Callable[..., str], arguments: list[str], says: str
) -> None:
    assert says in refused(*arguments)
