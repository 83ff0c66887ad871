"""The page of a run that trains, and the record of its starts: they never fail the run, nor take long from it."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.sources import Corpus
from tests.unit.made_run import made_evaluations, made_steps, write_run
from train.records import starts
from train.report import refresh
from train.report.record import read_run
from train.report.refresh import LivePage


def made_source(name: str, lengths: list[int]) -> Any:
    """What is asked of a source of documents of these lengths, without files."""
    table = np.array(lengths)
    return SimpleNamespace(
        name=name,
        num_documents=len(lengths),
        document_lengths=lambda documents: table[documents],
        num_tokens=int(table.sum()),
        origin=f"corpus/{name}",
        identity="0f1e2d",
        is_generated=name == "code",
        has_labels=False,
    )


def test_lengths_are_counted_by_octave_and_estimated_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = [0, 1, 2, 3, 4, 5, 8, 9, 4096, 4097]
    table = starts.length_table(made_source("all", lengths))
    assert table == [
        *([0, 1, 0], [1, 1, 1], [2, 1, 2], [4, 2, 7], [8, 2, 13], [16, 1, 9]),
        *([4096, 1, 4096], [8192, 1, 4097]),
    ]
    monkeypatch.setattr(starts, "MOST_DOCUMENTS", 100)
    assert starts.length_table(made_source("many", [7, 9] * 500)) == [[8, 1000, 7000]]


def test_every_start_is_a_line_with_command_commit_and_sources(tmp_path: Path) -> None:
    corpus = Corpus(
        (made_source("web", [5, 6]), made_source("code", [7])), made_source("held", [3])
    )
    (tmp_path / starts.STARTS).write_bytes(b'{"step": 0}\n{"step": 5, "cut o')
    assert starts.add_start(tmp_path, corpus, {"short": (1.0, 3.0)}, {"step": 8}) == ""
    lines = (tmp_path / starts.STARTS).read_text().splitlines()
    assert len(lines) == 3  # the torn line stays torn and spoils no other
    row = json.loads(lines[2])
    assert row["step"] == 8
    assert row["mix"] == {"short": {"web": 1.0, "code": 3.0}}
    assert (row["sources"]["web"]["tokens"], row["heldout"]["tokens"]) == (11, 3)
    assert (row["sources"]["web"]["prefix"], row["sources"]["code"]["prefix"]) == ("corpus/web", "")
    assert row["sources"]["code"]["generated"] == "0f1e2d"
    assert row["command"]
    (tmp_path / "full").touch()
    warning = starts.add_start(tmp_path / "full", corpus, {"short": (1.0, 3.0)}, {})
    assert warning.startswith("warning: ")
    assert "the report lacks this start" in warning


def test_the_commit_and_changed_files_of_a_checkout(tmp_path: Path) -> None:
    assert starts.checkout(tmp_path) == {"commit": None, "changed_files": None}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "code.py").write_text("a = 1\n")
    for command in (["init", "-q"], ["add", "code.py"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    found = starts.checkout(tmp_path)
    assert len(found["commit"]) == 40
    assert found["changed_files"] == 0
    (tmp_path / "code.py").write_text("a = 2\n")
    assert starts.checkout(tmp_path)["changed_files"] == 1


def test_a_page_is_written_before_the_first_step_and_follows_the_run(tmp_path: Path) -> None:
    steps = made_steps()
    folder = write_run(tmp_path / "run", [], [])
    (folder / "summary.json").unlink()
    page = LivePage(folder)
    page.refresh()
    assert "Starting. Written" in (folder / "report.html").read_text()
    folder = write_run(tmp_path / "run", steps[:100], made_evaluations(steps)[:1])
    page.refresh()
    assert "Training, 25.0% of its tokens seen, about" in (folder / "report.html").read_text()
    write_run(tmp_path / "run", steps, made_evaluations(steps))
    page.finish()
    assert "Complete. Written" in (folder / "report.html").read_text()
    assert page.news() == []


def test_what_cannot_be_written_or_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", made_steps()[:3], [])
    page = LivePage(folder)
    (folder / "metrics.jsonl").write_text("no row\n" * 2)
    page.refresh()
    (line,) = page.news()
    assert line.startswith(f"warning: {folder}/report.html could not be written (ValueError: ")
    assert line.endswith("; the run goes on")

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault\nof ours")

    monkeypatch.setattr(refresh, "write_report", fails)
    page.finish()
    assert "(ZeroDivisionError: a fault of ours)" in page.news()[0]
    assert page.news() == []


def test_pages_that_take_long_get_a_hundredth_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page takes 3 s of a clock of our own, and every evaluation comes 100 s after the one before."""
    clock, written = [0.0], list[float]()

    def write(folder: Path, *, running: bool) -> None:
        written.append(clock[0])
        clock[0] += 3.0

    monkeypatch.setattr(refresh, "write_report", write)
    monkeypatch.setattr(refresh, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    page = LivePage(tmp_path)
    for _ in range(100):
        page.refresh()
        clock[0] += 100.0
    assert 0.0 in written
    assert len(written) * 3.0 <= 0.01 * clock[0] + 3.0
    page.finish()
    assert written[-1] == clock[0] - 3.0


def test_reading_is_not_disturbed_by_a_running_checkpoint(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", made_steps()[:3], [])
    (folder / "checkpoints" / "step_00000500.partial").mkdir()
    (folder / "checkpoints" / "latest").write_text("step_00000400")
    names = [found.name for found in read_run(folder).checkpoints]
    assert names == ["step_00000400", "step_00000500.partial"]
