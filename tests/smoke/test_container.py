"""The steps of launch/container.py, done in a root of Debian's packages, and a short run in what came out."""

import json
import tomllib

import pytest

from tests.smoke.command import ROOT
from tests.smoke.container_root import ContainerRoot

pytestmark = pytest.mark.cluster

LIST = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"


def test_the_image_has_the_pinned_packages_and_none_of_the_tests(
    container_root: ContainerRoot,
) -> None:
    said = container_root.must("/opt/ropewalk/.venv/bin/python", "-c", LIST)
    found = {line.partition("+")[0].lower().replace("_", "-") for line in said.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {pin.lower().replace("_", "-") for pin in project["dependencies"]}
    assert pins <= found
    assert not any(name.startswith(("pytest==", "transformers==")) for name in found)


def test_ropewalk_trains_in_the_image_from_any_folder(container_root: ContainerRoot) -> None:
    assert "schedule.stages" in container_root.must("ropewalk", "train", "--help")
    container_root.must(
        "sh",
        "-ec",
        "mkdir -p /work/data /work/train && cd /work && touch data/__init__.py train/__init__.py && exec ropewalk "
        "torchrun --standalone --nproc-per-node 2 -- experiment=quickstart train.max_steps=4 "
        "evaluation.max_tokens=20000",
    )
    run = container_root.folder / "work/outputs/quickstart"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] > rows[-1]["loss"]
    assert (run / "report.html").stat().st_size > 100_000
