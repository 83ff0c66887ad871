"""Tables of docs/benchmarks.md are those of the numbers that were committed beside them."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs/benchmarks").glob("*.json"))


def script(name: str) -> ModuleType:
    """A script of tests/benchmark."""
    path = ROOT / f"tests/benchmark/{name}.py"
    specification = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_block_shows_the_numbers_that_were_measured(path: Path) -> None:
    document = (ROOT / "docs/benchmarks.md").read_text()
    record = json.loads(path.read_text())
    printed = script(path.stem).table(record["numbers"])
    shown = script("run_all").content(record["stamp"], printed)
    begin, end = f"<!-- {path.stem}: begin -->\n", f"\n<!-- {path.stem}: end -->"
    assert document.split(begin)[1].split(end)[0] == shown


def test_the_readme_shows_the_quickstart_that_was_measured() -> None:
    quickstart = script("quickstart")
    shown = (ROOT / "README.md").read_text().split(quickstart.BEGIN)[1].split(quickstart.END)[0]
    assert shown == quickstart.block(json.loads((ROOT / "docs/quickstart.json").read_text()))


def test_no_block_waits_for_its_numbers() -> None:
    document = (ROOT / "docs/benchmarks.md").read_text()
    assert re.findall("[Nn]ot measured yet.*", document) == []
