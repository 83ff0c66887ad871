"""What `--help` says: every key with a sentence, its unit, default and choices, at the width of a terminal."""

import re

import pytest

from train.__main__ import main
from train.configuration.groups import CONF, groups
from train.configuration.help_keys import Key, all_keys
from train.configuration.help_text import COLUMNS, about, help_text
from train.configuration.keys import known_keys

# A number's sentence says what it counts or measures.
UNITS = re.compile(
    r"\b(tokens?|seconds|bytes|steps|ranks|layers|heads|keys|ids|documents|processes|batches|checkpoints|elements|"
    r"rollbacks|width|rate|FLOP|share|factor|norm|cap|weight|decay|deviations?|seed|base|turns|times|added to|mix|"
    r"prompts|examples|depths)\b",
    re.IGNORECASE,
)
OPENING = re.compile(r"[A-Z]|[a-z_]+: ")


def test_every_key_stands_there_once() -> None:
    shown = [key.name for key in all_keys()]
    assert len(shown) == len(set(shown))
    assert set(known_keys()) <= set(shown)
    page = help_text()
    for key in known_keys():
        assert f"\n  {key}" in page


@pytest.mark.parametrize("key", all_keys(), ids=lambda key: key.name)
def test_a_key_has_a_sentence_its_default_and_what_it_may_be(key: Key) -> None:
    assert OPENING.match(key.sentence), key
    assert key.sentence.endswith("."), key
    assert bool(key.default) == bool(key.allowed), key
    if "number" in key.allowed:
        assert UNITS.search(key.sentence), f"{key}: say the unit"


def test_choices_and_defaults_are_those_of_the_schema_and_of_the_files() -> None:
    by_name = {key.name: key for key in all_keys()}
    assert by_name["train.precision"].allowed == "one of float32, bfloat16"
    assert by_name["checkpoint.keep"].default == "=2"
    assert by_name["checkpoint.every_steps"].default == "=auto"
    assert by_name["model.hidden_size"].default == "=192", (
        "of model=tiny, which is chosen by default"
    )
    base = by_name["schedule.stages.NAME.rope_base"].allowed
    assert base.startswith(
        "a finite number above 1 or {policy: constant, base} or {policy: keep|ntk"
    )


@pytest.mark.parametrize(
    "file", [f"{group}/{name}" for group, names in groups().items() for name in names]
)
def test_a_choice_has_whole_sentences(file: str) -> None:
    said = about(CONF / f"{file}.yaml")
    assert re.search(r"\w[.)]+$", said) or said.endswith("."), said
    assert said in re.sub(r"\s+", " ", help_text())


def test_nothing_is_wider_than_a_terminal() -> None:
    assert [line for line in help_text().splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize(
    ("topic", "first", "lines"),
    [
        ("checkpoint", "  checkpoint\n", 21),
        ("train.precision", "  train.precision=float32\n", 4),
        ("schedule.stages.long.tokens", "  schedule.stages.NAME.tokens=...", 4),
        ("recipe=llama", "  recipe=\n", 31),
    ],
)
def test_a_part_can_be_asked_for(
    capsys: pytest.CaptureFixture[str], topic: str, first: str, lines: int
) -> None:
    assert main(["--help", topic]) == 0
    said = capsys.readouterr().out
    assert said.startswith(first)
    assert said.count("\n") <= lines


def test_a_part_that_there_is_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "chekpoint"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "did you mean checkpoint?" in said
