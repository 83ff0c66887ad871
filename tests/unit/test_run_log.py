"""Logs after a resume: each step stands once, torn lines are gone, nothing else is lost."""

import json
from pathlib import Path

from train.run_log import RunLog, write_config


def rows(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_rows_beyond_the_checkpoint_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 8)) + '{"step": 8, "lo')
    log = RunLog(tmp_path, first_step=5)
    log.step({"step": 6, "loss": 1.0})
    log.close()
    assert rows(path) == [1, 2, 3, 4, 5, 6]


def test_fresh_run_over_an_aborted_one_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    RunLog(tmp_path, first_step=0).close()
    assert rows(tmp_path / "metrics.jsonl") == []


def test_changed_configuration_keeps_the_old_one(tmp_path: Path) -> None:
    write_config(tmp_path, "a: 1\n", 0)
    write_config(tmp_path, "a: 1\n", 10)
    assert not list(tmp_path.glob("config_before*"))
    write_config(tmp_path, "a: 2\n", 20)
    assert (tmp_path / "config.yaml").read_text() == "a: 2\n"
    assert (tmp_path / "config_before_step_00000020.yaml").read_text() == "a: 1\n"
