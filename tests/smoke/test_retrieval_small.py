"""`experiment=retrieval_small`: its mix, and the command that makes its tables, end to end with a few steps."""

from pathlib import Path

import pytest

from tests.benchmark import retrieval_small
from tests.benchmark.retrieval_tables import table
from train.configuration.compose import compose_run

TASKS = ("passkey", "key_in_text")
TASKS = ("passkey", "key_in_text")
STAGES = ("keys", "notes", "many", "long")
FEW = (
    "evaluation.max_tokens=1024",
    "schedule.learning_rate.warmup_tokens=0",
    "schedule.learning_rate.decay_tokens=8192",
    *(f"schedule.stages.{stage}.tokens=8192" for stage in STAGES),
    *(f"evaluation.tasks.{name}.lengths=[64]" for name in TASKS),
)


def test_every_stage_has_prompts_as_long_as_its_rows() -> None:
    """A shorter one would leave a gap that another is cut for, between its note and its question."""
    config = compose_run([retrieval_small.EXPERIMENT])
    asked = set()
    for stage in config.schedule.stages.values():
        assert sum(stage.data.values()) == pytest.approx(1.0)
        for name in stage.data.keys() & config.data.generated.keys():
            made = config.data.generated[name]
            assert made.min_length == made.max_length == stage.sequence_length
            asked.add(name)
    assert asked == config.data.generated.keys()


@pytest.mark.slow
def test_the_command_trains_asks_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_small, "RUNS", tmp_path)
    models = {name: (*words, *FEW) for name, words in retrieval_small.MODELS.items()}
    models["untrained"] = retrieval_small.MODELS["untrained"]
    monkeypatch.setattr(retrieval_small, "MODELS", models)
    few = ("--depths", "2", "--samples", "1", "--beyond", "--lengths")
    monkeypatch.setattr(retrieval_small, "NEAR", (*few, "64,1k"))
    monkeypatch.setattr(retrieval_small, "FAR", (*few, "2k"))
    monkeypatch.setattr(retrieval_small, "NOTES_LENGTHS", (*few, "128"))
    monkeypatch.setattr(retrieval_small, "SAMPLES", "1")
    for name, part in retrieval_small.PARTS.items():
        if name != "write":
            part()
    numbers = retrieval_small.gathered()
    assert numbers["runs"]["trained"]["stages"] == list(STAGES)
    assert {row["task"] for row in numbers["curve"]} == {*TASKS}
    assert len(numbers["controls"]) == 2
    assert "niah_multikey_3" in table(numbers)
