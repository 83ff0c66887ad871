"""`experiment=posgen` and the command that makes its table, end to end with a few steps."""

import json
from pathlib import Path

import pytest

from tests.benchmark import posgen

pytestmark = pytest.mark.slow
FEW = (
    "schedule.stages.train.tokens=4096",
    "schedule.learning_rate.warmup_tokens=1024",
    "evaluation.accuracy={lengths: [64, 80], documents: 4, greedy_documents: 1, bucket_tokens: 1}",
)


def test_a_run_makes_the_cells_of_its_methods_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELLS", "RUNS"):
        monkeypatch.setattr(posgen, name, tmp_path / name)
    monkeypatch.setattr(posgen, "SIZES", {"small": FEW})
    wanted = [(0, "recursive", "rope")]
    posgen.fill(1.0, "small", wanted)
    made = {path.name: json.loads(path.read_text()) for path in posgen.CELLS.iterdir()}
    assert set(made) == {f"{name}-recursive-0.json" for name in ("rope", "yarn", "yarn_64")}
    # Steps of the stage train, then one each that changes no weight.
    assert [made[name]["steps"] for name in sorted(made)] == [4, 5, 6]
    cell = made["yarn-recursive-0.json"]
    assert [len(one["accuracy_by_place"]) for one in cell["lengths"]] == [64, 80]
    assert (posgen.RUNS / "rope-recursive-0-small/report.html").exists()

    times = {path: path.stat().st_mtime_ns for path in posgen.CELLS.iterdir()}
    posgen.fill(1.0, "small", wanted)
    assert {path: path.stat().st_mtime_ns for path in posgen.CELLS.iterdir()} == times
    assert "YaRN, turns over 64" in posgen.table(posgen.gathered())
