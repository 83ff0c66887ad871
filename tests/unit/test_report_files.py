"""Files that the report reads, whole, torn or hostile: a page comes out, or one line says what is wrong."""

import json
from pathlib import Path

import pytest

from tests.unit.made_run import (
    BATCH,
    PER_STAGE,
    made_steps,
    names,
    page_of,
    write_run,
)
from train.report.command import main
from train.report.page import write_report
from train.report.record import read_run


@pytest.mark.parametrize(
    "tail", [b'{"step": 401, "sta', b'{"step": 401, "stage": "l\xc3', b"\0\0\n"]
)
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    folder = write_run(tmp_path / "torn", made_steps()[:50], [])
    with (folder / "metrics.jsonl").open("ab") as log:
        log.write(tail)
    assert len(read_run(folder).steps) == 50
    assert "last line of metrics.jsonl was cut off" in page_of(folder).text


def test_a_broken_line_before_the_last_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "broken", made_steps()[:9], [])
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:3], "\n", lines[3][:20] + "\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 5: not a JSON object"):
        write_report(folder)
    log.write_text("".join([*lines[:3], '{"step": 4, "stage": "short"}\n', *lines[4:]]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 4: lacks tokens_seen"):
        write_report(folder)


@pytest.mark.parametrize("count", [0, 1, 2, 130, 201])
def test_a_run_killed_early_has_its_figures(tmp_path: Path, count: int) -> None:
    steps = made_steps()[:count]
    folder = write_run(tmp_path / "killed", steps, [])
    (folder / "summary.json").unlink()
    page = page_of(folder)
    reached = {row["stage"] for row in steps}
    constant = {"sequence_length", "rope_base"} if len(reached) == 1 else set()
    drawn = {*PER_STAGE, "seconds"} - constant if steps else set()
    assert set(page.figures) == {*drawn, "lengths"}
    assert all(reached <= names(page.figures[key]) for key in drawn - {"seconds"})
    assert ("No step has been completed" in page.text) == (count == 0)
    assert page.text.count("not reached") == 3 - len(reached)
    if steps:
        assert f"{count * BATCH / 3_276_800:.1%} of its tokens seen" in page.text


def test_only_the_required_keys(tmp_path: Path) -> None:
    """No configuration, no evaluation, and lines that hold nothing but where they stand."""
    folder = tmp_path / "bare"
    folder.mkdir()
    rows = [{"step": step, "stage": "only", "tokens_seen": 10 * step} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    page = page_of(folder)
    assert page.figures == {}
    assert "<h1>bare</h1>" in page.text
    (folder / "evaluation.jsonl").write_text(json.dumps(rows[1] | {"loss": 3.25}))
    page = page_of(folder)
    assert "Held-out loss ends at 3.250" in page.text
    assert names(page.figures["loss"]) == {"only"}


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    steps = [row | {"stage": "</script><b>x"} for row in made_steps()[:30]]
    page = page_of(write_run(tmp_path / "a<i>&b", steps, []))
    assert "<b>x" not in page.text
    assert "<i>" not in page.text.split("<script>")[0]
    assert all(
        "&lt;/script&gt;&lt;b&gt;x" in names(page.figures[key])
        for key in PER_STAGE
        if key in page.figures
    )


def test_a_wrong_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not readable as YAML"):
        write_report(tmp_path)


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder = write_run(tmp_path / "one", made_steps()[:9], [])
    monkeypatch.setattr("sys.argv", ["report", str(run_folder)])
    main()
    assert capsys.readouterr().out == f"{run_folder / 'report.html'}\n"
    monkeypatch.setattr("sys.argv", ["report", str(run_folder / "config.yaml")])
    assert main() == 0
    assert capsys.readouterr().out == f"{run_folder / 'report.html'}\n"
    other = write_run(tmp_path / "two", made_steps()[:9], [])
    monkeypatch.setattr("sys.argv", ["report", str(run_folder), str(other)])
    assert main() == 0
    assert capsys.readouterr().out == f"{tmp_path / 'comparison.html'}\n"
    assert "Results" in (tmp_path / "comparison.html").read_text()
    monkeypatch.setattr("sys.argv", ["report", str(run_folder / "nowhere")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "give the folder of a run" in capsys.readouterr().err
