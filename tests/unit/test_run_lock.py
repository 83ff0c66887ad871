"""Two jobs never work on one run; what a dead one held is free."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from train.health import run_lock

HOLDER = """
import sys, time
from pathlib import Path
from train.health.run_lock import hold_run
kept = hold_run(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_job_is_refused_until_the_first_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "_HERE", 0.2)
    folder = tmp_path / "run"
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=re.escape(f"process {first.pid} on ")) as refused:
            run_lock.hold_run(folder, print)
        assert "choose another run_name" in str(refused.value)
        first.send_signal(signal.SIGKILL)
        first.wait()
    kept = run_lock.hold_run(folder, print)
    assert kept is not None
    kept.close()


def test_a_folder_that_cannot_be_made_is_not_this_files_business(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[str] = []
    assert run_lock.hold_run(tmp_path / "file" / "run", told.append) is None
    assert told == []


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told: list[str] = []
    assert run_lock.hold_run(tmp_path / "run", told.append) is None
    (line,) = told
    assert "has no locks (No locks available)" in line and "start no second one" in line
