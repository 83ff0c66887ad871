"""W&B offline: what was logged is read back from the run's own file with W&B's own reader."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from train.configuration.schema import WandbConfig
from train.records.wandb_log import WandbLog


def read_back(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """History rows and summary of the newest offline run under `folder`."""
    path = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))[-1]
    inspect = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    summary = subprocess.run(
        [*inspect[:3], "--summary", *inspect[3:]], capture_output=True, text=True, check=True
    ).stdout
    return [record for record in records if record["type"] == "history"], json.loads(summary)


def row(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "stage": "short",
        "tokens_seen": 100 * step,
        "loss": 1 / 3 + step,
        "skipped": False,
        "seconds": {"data": 0.25},
        "sources": {
            "web": {"tokens": 100, "loss": 1 / 9 + step},
            "code": {"tokens": 0, "loss": None},
        },
        "layers": {"3": {"kind": "full_rope", "gradient_norm": 1 / 11 + step}},
    }


def log(folder: Path, steps: range, given_up: int = 0) -> str:
    """The last `given_up` steps twice, as after a rollback; their loss is then another one."""
    wandb = WandbLog(WandbConfig(), folder=folder, run_name="here", settings={"seed": 3})
    for step in steps:
        wandb.step(row(step))
    wandb.abandoned_steps = given_up
    for step in steps[len(steps) - given_up :]:
        wandb.step({**row(step), "loss": 1 / 7 + step})
    evaluated = {"step": steps[-1], "tokens_seen": 512 * steps[-1], "task": "held_out"}
    line = {"step": steps[-1], "start": 32, "loss": 2.5, "bigram_loss": None}
    wandb.evaluation(evaluated, {"loss_from_position_32": 2.5}, [line])
    (folder / "report.html").write_text(f"<p>step {steps[-1]}</p>")
    wandb.file(folder / "report.html")
    wandb.file(folder / "none.html")
    wandb.close()
    return wandb.run_id


def test_metrics_come_back_exactly_and_a_resume_keeps_the_id(tmp_path: Path) -> None:
    run_id = log(tmp_path, range(1, 4))
    history, summary = read_back(tmp_path)
    text = json.dumps(history)
    for step in range(1, 4):
        assert json.dumps(1 / 3 + step) in text
    assert "evaluation/loss_from_position_32" in text
    assert "seconds/data" in text
    assert "sources/web/loss" in text
    assert json.dumps(1 / 9 + 3) in text
    assert "layers/3/gradient_norm" in text and json.dumps(1 / 11 + 3) in text
    assert "layers/3/kind" not in text
    assert "evaluation/held_out_table" in text
    (kept,) = tmp_path.glob("wandb/offline-run-*/files")
    assert (kept / "report.html").read_text() == "<p>step 3</p>"
    assert not (kept / "report.html").is_symlink(), "the folder may be copied and synced elsewhere"
    (table,) = kept.glob("media/table/evaluation/held_out_table*.table.json")
    assert json.loads(table.read_text())["data"] == [[3, 32, 2.5, None]]
    last = history[-1]["history"]["item"]
    assert last["evaluation/loss_from_position_32"] == 2.5
    assert (last["evaluation/tokens_seen"], last["tokens_seen"]) == (512 * 3, 100 * 3), "two axes"
    assert '"skipped"' not in text
    assert run_id in json.dumps(summary)
    assert log(tmp_path, range(4, 7), given_up=2) == run_id
    history, _ = read_back(tmp_path)
    for loss in (1 / 3 + 4, 1 / 3 + 5, 1 / 3 + 6, 1 / 7 + 5, 1 / 7 + 6):
        assert json.dumps(loss) in json.dumps(history), "a rollback loses neither branch"
    names = {path.name for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert names == {f"run-{run_id}.wandb"}


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    wandb = WandbLog(WandbConfig(mode="disabled"), folder=tmp_path, run_name="x", settings={})
    wandb.step(row(1))
    wandb.close()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_folder_ends_the_log_or_the_id_but_not_the_run(tmp_path: Path) -> None:
    """One process: a start of W&B takes seconds."""
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "wandb").write_text("not a folder")
    given = {"run_name": "here", "settings": {}}
    none = WandbLog(WandbConfig(), folder=tmp_path / "file", **given)
    none.step(row(1))
    none.evaluation({"step": 1, "tokens_seen": 512, "task": "held_out"}, {"loss": 2.5})
    none.close()
    (said,) = none.news()
    assert "W&B logs nothing from here on (File exists" in said
    assert "metrics.jsonl has every row" in said

    first = log(tmp_path, range(1, 3))
    # An older run's file is nothing to a new start; an id that is none gives way to a new one.
    next(tmp_path.glob("wandb/offline-run-*/run-*.wandb")).write_bytes(b"\xff\x00 garbage")
    (tmp_path / "wandb" / "run_id").write_bytes(b"\xff\x00../..")
    wandb = WandbLog(WandbConfig(), folder=tmp_path, **given)
    assert wandb.run_id != first
    assert "run_id holds no id of W&B's" in wandb.news()[0]
    assert (tmp_path / "wandb" / "run_id").read_text() == wandb.run_id
    wandb._run.log = refuse
    wandb.step(row(3))
    wandb.step(row(4))
    (said,) = wandb.news()
    assert "W&B logs nothing from here on (BrokenPipeError: gone)" in said


def refuse(*_: Any, **__: Any) -> None:
    """W&B whose process has died."""
    raise BrokenPipeError("gone")
