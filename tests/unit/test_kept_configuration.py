"""What a run keeps of its configuration, what a later start changed, and that config.yaml starts the run again."""

import shutil
from pathlib import Path

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from train.configuration.compose import ConfigMistakes, compose_all, compose_run, to_yaml
from train.records.kept_configuration import keep_configuration

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "0.1.0"
OWN = """\
# Mine.
stages:
  only: {tokens: 4096, sequence_length: 64, batch_tokens: 512, micro_batch_tokens: 128}
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(OWN)
    return tmp_path


def test_the_text_of_own_files_is_kept_and_a_change_is_told(start: Path) -> None:
    found = compose_all(["schedule=own.yaml", "model=tiny"])
    assert found.config is not None
    assert found.origins.texts == {"schedule/own": OWN}
    folder = start / "outputs/run"
    assert keep_configuration(folder, found.config, found.origins.texts, 0) == []
    kept = folder / "configuration/schedule/own.yaml"
    assert kept.read_text() == OWN
    (folder / "config.yaml").write_text(to_yaml(found.config))
    assert keep_configuration(folder, found.config, found.origins.texts, 10) == []

    (start / "own.yaml").write_text(OWN.replace("4096", "8192"))
    later = compose_all(["schedule=own.yaml", "model=tiny", "seed=3"])
    assert later.config is not None
    text, values = keep_configuration(folder, later.config, later.origins.texts, 20)
    assert text.startswith(
        "configuration/schedule/own.yaml differs from the start before: -  only: {"
    )
    assert values == (
        "changed since the start before: schedule.stages.only.tokens=8192 (before: 4096), seed=3 (before: 0), "
        "data.seed=3 (before: 0)"
    )  # fmt: skip
    assert kept.with_name("own_before_step_00000020.yaml").read_text() == OWN


def test_groups_that_come_or_go_are_told_by_what_they_set(start: Path) -> None:
    groups = "optimizer.groups={rest: {frozen: true}, long: {kinds: [full_nope]}}"
    configs = [compose_run(["experiment=quickstart", *more]) for more in ((), (groups,))]
    told = []
    for before, now in (configs, configs[::-1]):
        folder = start / f"outputs/{len(told)}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(to_yaml(before))
        told += keep_configuration(folder, now, {}, 4)
    head = "changed since the start before: "
    assert told == [
        f"{head}optimizer.groups.rest.frozen=true (before: nothing), "
        "optimizer.groups.long.kinds=['full_nope'] (before: nothing)",
        f"{head}optimizer.groups.rest.frozen is gone, optimizer.groups.long.kinds is gone",
    ]


def test_relative_paths_of_an_earlier_version_are_no_change(start: Path) -> None:
    """The configuration of version 0.1.0, whose paths are relative, against the same with absolute ones."""
    folder = start / "outputs/hybrid"
    folder.mkdir(parents=True)
    shutil.copy(FIXTURES / "hybrid/config.yaml", folder)
    assert "prefix: corpus/train" in (folder / "config.yaml").read_text()
    relative = ("paths.outputs=outputs", "paths.prepared=outputs/prepared",
                "data.sources.all.prefix=corpus/train", "data.heldout=corpus/heldout")  # fmt: skip
    again = compose_run([f"experiment={folder}/config.yaml", *relative])
    assert again.data.sources["all"].prefix == f"{start}/corpus/train"
    assert keep_configuration(folder, again, {}, 4) == []


def test_config_yaml_starts_the_same_run_again_from_any_folder(
    start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is laid under it: the default schedule has other stages, which do not come back."""
    run = compose_run(["schedule=own.yaml", "data=files", "data.sources.web.prefix=web", "seed=4"])
    (start / "config.yaml").write_text(to_yaml(run))
    monkeypatch.chdir("/")
    again = [f"experiment={start}/config.yaml"]
    assert compose_run(again) == run
    assert compose_run([*again, "seed=5"]).seed == 5
    with pytest.raises(ConfigMistakes, match="schedule=small: has no effect with experiment="):
        compose_run([*again, "schedule=small"])
