"""Which checkpoint a path stands for: a run's folder, `checkpoints`, `latest`, a step, an imported model."""

from pathlib import Path

import pytest

from train.checkpointing.continuation import find_resume
from train.checkpointing.folder import named
from train.checkpointing.locate import locate
from train.checkpointing.state import STATE
from train.configuration.schema import CheckpointConfig, PathsConfig, RunConfig, ScheduleConfig
from train.configuration.validate import problems


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with two complete checkpoints, one being written and a damaged one."""
    folder = tmp_path / "outputs" / "first"
    for name in (named(2), named(10), f"{named(11)}.partial", f"{named(12)}.damaged"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / STATE).touch()
    (folder / "checkpoints" / "latest").write_text(f"{named(10)}\n")
    (folder / "config.yaml").touch()
    return folder


def resuming(checkpoint: Path, outputs: Path, name: str) -> RunConfig:
    """A run of this name that starts from a checkpoint."""
    schedule = ScheduleConfig(stages={})
    return RunConfig(
        run_name=name,
        schedule=schedule,
        paths=PathsConfig(outputs=str(outputs)),
        checkpoint=CheckpointConfig(resume=str(checkpoint)),
    )


def why_not(path: Path) -> str:
    with pytest.raises(ValueError, match=": ") as caught:
        locate(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("given", ["", "checkpoints", "checkpoints/latest", f"checkpoints/{named(10)}"])  # fmt: skip
def test_a_run_and_what_is_in_it_stand_for_its_newest_checkpoint(run: Path, given: str) -> None:
    newest = run / "checkpoints" / named(10)
    assert locate(run / given) == newest
    assert find_resume(resuming(run / given, run.parent.parent, "other")) == newest
    # The same command again, where the run of that name is the one that has checkpoints.
    assert find_resume(resuming(run / given, run.parent, "first")) == newest


def test_a_step_and_an_imported_model_stand_for_themselves(run: Path, tmp_path: Path) -> None:
    older = run / "checkpoints" / named(2)
    assert locate(older) == older
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / STATE).touch()
    assert locate(tmp_path / "imported") == tmp_path / "imported"


def test_links_are_followed(run: Path, tmp_path: Path) -> None:
    pointer = run / "checkpoints" / "latest"
    pointer.unlink()
    pointer.symlink_to(named(2))
    assert locate(pointer) == run / "checkpoints" / named(2)
    (tmp_path / "link").symlink_to(run)
    assert locate(tmp_path / "link").name == named(10)
    pointer.unlink()
    pointer.symlink_to(named(9))
    assert why_not(pointer).startswith(f"links to {named(9)}, which is gone; give ")


@pytest.mark.parametrize("text", ["step_00000009", "", "../../elsewhere", "a\nb", "step_00000011.partial"])  # fmt: skip
def test_latest_that_names_no_complete_checkpoint_is_refused(run: Path, text: str) -> None:
    (run / "checkpoints" / "latest").write_text(text)
    line = why_not(run / "checkpoints" / "latest")
    assert line.endswith(f"which is no complete checkpoint there; the newest there is {named(10)}")
    assert locate(run).name == named(10)


def test_what_has_no_complete_checkpoint_is_refused_with_the_reason(run: Path, tmp_path: Path) -> None:  # fmt: skip
    for step in (2, 10):
        (run / "checkpoints" / named(step)).rename(run / "checkpoints" / f"{named(step)}.partial")
    assert why_not(run).startswith(f"has incomplete checkpoints only ({named(2)}.partial, ")
    assert why_not(run / "checkpoints" / "latest").endswith("there is none")
    assert why_not(run / "checkpoints" / f"{named(11)}.partial").startswith("is incomplete")
    for path in (run / "checkpoints").glob("*.partial"):
        path.rename(path.with_suffix(".gone"))
    assert why_not(run).startswith(f"has damaged checkpoints only ({named(12)}.damaged)")
    young = tmp_path / "outputs" / "young"
    (young / "checkpoints").mkdir(parents=True)
    (young / "config.yaml").touch()
    assert why_not(young).startswith("has no checkpoint yet; ")
    assert why_not(young / "checkpoints").startswith("has no checkpoint yet; ")
    assert why_not(tmp_path / "outputs") == "holds runs (first, young); give the folder of one"


def test_what_is_no_run_at_all_is_refused_with_what_it_is(tmp_path: Path) -> None:
    assert why_not(tmp_path).startswith("is neither a checkpoint nor a run's folder; give ")
    assert why_not(tmp_path / "none").startswith("no such folder; give ")
    assert why_not(tmp_path / ("a" * 300))
    (tmp_path / "config.json").write_text("{}")
    assert "ropewalk import --model" in why_not(tmp_path)
    assert why_not(tmp_path / "config.json").startswith("is a file; give ")
    line = problems(resuming(tmp_path / "none", tmp_path, "other"), 1)
    assert [found for found in line if "no such folder" in found and "auto or never" in found]
