"""Logs after a resume and on a full disk: each step stands once, torn lines are gone, nothing else is lost."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from train.records import metrics_log as run_log
from train.records.metrics_log import RunLog, write_config


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


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00" * 99, b"not json", b"7\n", b'{"a": 1}\n', b"[" * 10**5]
)
def test_files_that_were_overwritten_with_anything_are_kept_aside_and_begun_anew(
    tmp_path: Path, content: bytes
) -> None:
    for name in ("metrics.jsonl", "evaluation.jsonl"):
        (tmp_path / name).write_bytes(content + b"\n")
    (tmp_path / "config.yaml").write_bytes(content)
    write_config(tmp_path, "a: 1\n", 3)
    assert (tmp_path / "config_before_step_00000003.yaml").read_bytes() == content
    log = RunLog(tmp_path, first_step=0)
    log.step({"step": 1})
    log.close()
    assert rows(tmp_path / "metrics.jsonl") == [1]


def test_a_damaged_line_costs_itself_and_the_file_as_it_was_is_kept(tmp_path: Path) -> None:
    lines = [f'{{"step": {n}, "loss": 0.5}}\n'.encode() for n in range(1, 6)]
    lines[2] = lines[2].replace(b'"', b"\xff", 1)
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    log = RunLog(tmp_path, first_step=4)
    assert "metrics.jsonl: 1 lines are no rows" in log.news()[0]
    log.close()
    assert rows(tmp_path / "metrics.jsonl") == [1, 2, 4]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == b"".join(lines)


class Disk:
    """`os.write` with so much room."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        original = os.write

        def write(file: int, content: Any) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = original(file, bytes(content[: self.room]))
            self.room -= done
            return done

        patch.setattr(os, "write", write)


def test_rows_that_a_full_disk_refuses_wait_and_are_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path, first_step=0)
    disk = Disk(monkeypatch, room=40)  # in the middle of the third row
    for step in range(1, 6):
        log.step({"step": step})
        log.evaluation({"step": step})
    assert {line.split(" cannot")[0] for line in log.news()} == {
        f"warning: {tmp_path}/{name}" for name in ("metrics.jsonl", "evaluation.jsonl")
    }
    with pytest.raises(OSError, match=r"rows are not written yet: No space left"):
        log.sync()
    disk.room = 10**6
    log.step({"step": 6})
    log.sync()
    assert rows(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]
    assert rows(tmp_path / "evaluation.jsonl") == [1, 2, 3, 4, 5]
    assert log.news() == []
    disk.room = 0
    log.step({"step": 7})
    with pytest.raises(OSError, match="the last 1 rows are lost: No space left"):
        log.close()


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log, "MOST_WAITING_BYTES", 100)
    log = RunLog(tmp_path, first_step=0)
    Disk(monkeypatch, room=0)
    with pytest.raises(OSError, match=r"metrics\.jsonl: 1\d\d bytes wait: No space left"):
        for step in range(99):
            log.step({"step": step})


def test_a_run_that_goes_back_drops_its_rows(tmp_path: Path) -> None:
    log = RunLog(tmp_path, first_step=0)
    for step in range(1, 6):
        log.step({"step": step})
    log.rewind(2)
    log.step({"step": 3})
    log.close()
    assert rows(tmp_path / "metrics.jsonl") == [1, 2, 3]
