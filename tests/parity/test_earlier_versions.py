"""What version 0.1.0 (commit 515d5de) left behind still serves: checkpoints, config.yaml, command lines.

`tests/fixtures/0.1.0/` holds a corpus and two runs of that commit, stopped after step 4 of 8: `hybrid`, and `scaled`
with YaRN on full layers. Their metrics.jsonl has all 8 steps of a run that was not stopped.
"""

import json
import shutil
from pathlib import Path

import pytest

from ranks import run_on_ranks
from train.configuration.compose import ConfigMistakes, compose_run, from_yaml
from train.job import run_job
from train.report.page import write_report

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0"
SHAPE = [
    *("data=files", "+data.sources.all.prefix=corpus/train", "data.look_ahead=8", "schedule=small"),
    *("model.vocab_size=320", "model.hidden_size=16", "model.intermediate_size=32", "model.num_heads=2"),
    *("model.num_kv_heads=1", "model.head_dim=8", "evaluation.enabled=false"),
    *("logging.wandb.mode=disabled", "preflight.enabled=false", "train.max_steps=8", "checkpoint.every_steps=4"),
]  # fmt: skip
HYBRID = ["model.window=16"]
SCALED = [
    *("recipe=full_rope", "model.num_layers=2", "model.kinds.full_rope.rope.scaling=yarn"),
    *("model.kinds.full_rope.rope.factor=4", "model.kinds.full_rope.rope.original_length=64"),
]
# Keys of 0.1.0 that have another name now, as they stood on a command line.
RENAMED = {
    "model.rope_full.scaling=yarn": "model.kinds.full_rope.rope",
    "model.rope_window.base=5e5": "model.kinds.window_rope.rope",
}
# Command lines of 0.1.0's README and docs, as far as they compose without files of the user's own.
COMMANDS = (
    "experiment=quickstart",
    "experiment=quickstart run_name=long_tail schedule.stages.long.tokens=2e6",
    "experiment=quickstart model=125m recipe=full_rope train.device=cuda",
    "experiment=quickstart_4d",
    "run_name=baseline recipe=full_rope",
    "run_name=first model=125m schedule=to_32k train.precision=bfloat16 train.keep_for_backward=attention",
    "model=8b recipe=qk_norm schedule=to_128k parallel.tensor=4 parallel.zero_stage=1 parallel.sequence=2",
    "train.spikes.action=rollback checkpoint.every_steps=10 train.max_skipped_steps=2 checkpoint.keep=5",
    "+schedule.stages.short.parallel={sequence:2} schedule.stages.long.rope_base={policy:ntk}",
    "schedule=small schedule.learning_rate.shape=wsd schedule.learning_rate.decay_tokens=1000 optimizer.beta2=0.99",
)


def losses(folder: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows]


@pytest.mark.parametrize(("run", "arguments"), [("hybrid", HYBRID), ("scaled", SCALED)])
def test_a_run_goes_on_from_its_checkpoint(
    run: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four steps after it have the losses of the run that was not stopped, but for rounding of another CPU."""
    shutil.copytree(FIXTURES / "corpus", tmp_path / "corpus")
    shutil.copytree(FIXTURES / run, tmp_path / "outputs" / run)
    monkeypatch.chdir(tmp_path)
    config = compose_run([f"run_name={run}", *SHAPE, *arguments])
    assert run_on_ranks(lambda *_: run_job(config), 1) == [0]
    found, wanted = losses(tmp_path / "outputs" / run), losses(FIXTURES / run)
    assert [step for step, *_ in found] == list(range(1, 9))
    assert found[:4] == wanted[:4]
    for got, want in zip(found, wanted, strict=True):
        assert got == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("run", ["hybrid", "scaled"])
def test_its_report_is_written(run: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / run, tmp_path / run)
    (folder / "evaluation.jsonl").touch()
    assert write_report(folder).stat().st_size > 100_000


@pytest.mark.parametrize("run", ["hybrid", "scaled"])
def test_its_config_is_read_or_one_line_names_the_new_key(run: str) -> None:
    text = (FIXTURES / run / "config.yaml").read_text()
    try:
        assert from_yaml(text).run_name == run
    except ConfigMistakes as error:
        assert 1 <= len(error.mistakes) <= 2
        assert all("model.kinds." in line for line in error.mistakes), error.mistakes


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_line_composes(command: str) -> None:
    compose_run(command.split())


@pytest.mark.parametrize(("argument", "new"), RENAMED.items())
def test_a_renamed_key_is_taken_or_answered_with_its_new_name(argument: str, new: str) -> None:
    try:
        compose_run(["recipe=full_rope", argument])
    except ConfigMistakes as error:
        (line,) = error.mistakes
        assert line.startswith(argument), line
        assert new in line, line
