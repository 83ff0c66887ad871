"""What a person reads: the closing words, the origin check."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from train.checkpointing.state import RunState
from train.configuration.compose import compose_run
from train.health.checkout import strangers
from train.records.closing_words import closing_words, words_after_failure
from train.records.console import say_last

ROOT = Path(__file__).resolve().parents[2]


def test_closing_words_fit_the_run_and_bear_scores_that_are_missing(tmp_path: Path) -> None:
    row = {
        "loss": 3.5,
        "bigram_loss": 4.0,
        "unigram_loss": 6.0,
        "sequence_length": 4096,
        "first_quarter_loss": 3.6,
        "last_quarter_loss": None,
        "first_quarter_bigram_loss": 4.1,
        "last_quarter_bigram_loss": None,
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/evaluation.jsonl").write_text(json.dumps(row) + "\n")
    config = compose_run(["schedule=small", "run_name=mine", f"paths.outputs={tmp_path}"])
    words = closing_words(config, RunState(step=20, tokens_seen=10_240), finished=True)
    assert "3.500 nats (bigram 4.000, unigram 6.000)" in words
    assert "last quarter - (bigram 4.100 and -)" in words
    assert "report.html" in words
    assert "run_name=mine_full_rope recipe=full_rope" in words
    assert f"export --checkpoint {tmp_path}/mine " in words
    from_huggingface = RunState(step=20, tokens_seen=10_240, origin={"config": {}})
    assert "recipe=" not in closing_words(config, from_huggingface, finished=True)
    branched = replace(config, checkpoint=replace(config.checkpoint, resume=f"{tmp_path}/other"))
    assert "recipe=" not in closing_words(branched, RunState(step=20), finished=True)
    assert "max_steps" not in words
    assert "W&B" not in words
    # A form that no family of Hugging Face takes, in the run's model and in that of its last step.
    gated = replace(config, model=replace(config.model, gate="sigmoid"))
    assert "export" not in closing_words(gated, RunState(step=20), finished=True)
    last = RunState(step=20, model=asdict(gated.model))
    assert "export" not in closing_words(config, last, finished=True)
    words = closing_words(config, RunState(step=7, tokens_seen=700), finished=False)
    assert "saved at step 7" in words
    assert "status 75" in words
    (tmp_path / "mine/wandb/offline-run-20260131_101500-0a1b2c3d").mkdir(parents=True)
    assert f"wandb sync {tmp_path}/mine/wandb/offline-run-*" in closing_words(
        config, RunState(step=7), finished=False
    )
    assert "starts it anew" in words_after_failure(config)
    (tmp_path / "mine/checkpoints/step_00000005").mkdir(parents=True)
    assert "goes on from" in words_after_failure(config)
    config.model.layer_pattern, config.train.max_steps = ["full_rope"], 7
    words = closing_words(config, RunState(step=7, tokens_seen=3_584), finished=True)
    assert "recipe=" not in words
    assert "train.max_steps=7 is reached, of 10,240 tokens" in words


def test_the_log_keeps_how_a_run_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = compose_run(["schedule=small", "run_name=mine", f"paths.outputs={tmp_path}"])
    words = closing_words(config, RunState(step=7, tokens_seen=700), finished=False)
    say_last(words, tmp_path / "log.txt")
    assert capsys.readouterr().out == words
    assert (
        (tmp_path / "log.txt")
        .read_text()
        .endswith(f" {tmp_path}/mine: asked to stop; saved at step 7, 700 tokens (status 75).\n")
    )


def test_our_packages_are_ours_and_a_stranger_is_named(tmp_path: Path) -> None:
    assert strangers(ROOT) == []
    assert len(strangers(tmp_path)) == 4
    assert "start `ropewalk train ...`" in strangers(tmp_path)[0]


def test_decisions_have_numbers_of_their_own() -> None:
    numbers = [path.name[:4] for path in sorted((ROOT / "docs/decisions").glob("*.md"))]
    assert len(set(numbers)) == len(numbers)
    for path in (ROOT / "docs/decisions").glob("*.md"):
        assert path.read_text().startswith(f"# {path.name[:4]}: "), path


def test_links_and_paths_of_documents_lead_to_files() -> None:
    missing = []
    for page in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "launch").glob("*.md"),
    ]:
        if page.name == "CHANGELOG.md":  # tells of files as they were called
            continue
        text = page.read_text()
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
        paths = re.findall(
            r"`((?:train|model|data|parallel|conf|launch|tests)/[\w./]+\.(?:py|yaml|sh))\b", text
        )
        missing += [f"{page.name}: {link}" for link in links if not (page.parent / link).exists()]
        missing += [
            f"{page.name}: {path}"
            for path in paths
            if not (ROOT / path).exists() and "NAME" not in path
        ]
    assert not missing, "\n".join(missing)
