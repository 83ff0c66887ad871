"""What is only judged starts without torch: --help, --print, --check, --folder, and mistakes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from train.configuration.groups import groups

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "deepspeed", "transformers")
# For each world size and list of arguments: runs the command, writes its exit status, its errors and what is imported.
JUDGE = f"""
import contextlib, io, json, os, sys
from train.__main__ import main
for world_size, arguments in json.loads(sys.argv[1]):
    os.environ |= {{"RANK": "0", "WORLD_SIZE": str(world_size)}}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main(arguments)
    print(json.dumps([status, errors.getvalue(), [name for name in {HEAVY} if name in sys.modules]]))
"""


class Start(NamedTuple):
    """One command, on so many ranks, and the exit status it must have."""

    status: int
    world_size: int
    arguments: list[str]


@pytest.fixture
def starts(imported: str, declare: Callable[..., str], tmp_path: Path) -> list[Start]:
    """Every experiment with every flag that starts nothing, and mistakes."""
    declare(tmp_path / "texts")
    found = [Start(0, 1, ["--help"]), Start(2, 1, ["--hlep"])]
    for experiment in sorted({*groups()["experiment"]} - {"llama31_128k"}):  # that is for one model
        size = 4 if experiment.endswith("_4d") else 1
        chosen = [f"experiment={experiment}", f"paths.outputs={tmp_path}"]
        if experiment.startswith("extend_"):
            chosen += [f"checkpoint.resume={imported}"]
        if experiment.startswith(("extend_", "to_")):
            chosen += [f"data.sources.texts.prefix={tmp_path}/texts"]
        if experiment.startswith("to_"):
            chosen += [f"data.heldout={tmp_path}/texts"]
        for flag in ("--print", "--check", "--folder"):
            found.append(Start(0, size, [flag, *chosen]))
            found.append(Start(2, size, [flag, *chosen, "train.max_stpes=3"]))
        found.append(Start(2, 1, [*chosen, "model.num_heads=7", "model.num_kv_heads=2"]))
    extended = ["experiment=extend_llama", f"checkpoint.resume={imported}"]
    found.append(Start(2, 1, ["--check", *extended, "model.num_kv_heads=3"]))
    found.append(Start(2, 1, ["--check", "experiment=extend_llama"]))
    found.append(
        Start(
            2,
            1,
            [
                "experiment=quickstart",
                f"checkpoint.resume={tmp_path}/nowhere",
                f"paths.outputs={tmp_path}",
            ],
        )
    )
    return found


def test_nothing_heavy_is_imported_where_nothing_is_started(starts: list[Start]) -> None:
    given = json.dumps([(start.world_size, start.arguments) for start in starts])
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_WORLD_SIZE"}
    finished = subprocess.run(
        [sys.executable, "-c", JUDGE, given],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answers = [json.loads(line) for line in finished.stdout.splitlines()]
    for start, (status, errors, heavy) in zip(starts, answers, strict=True):
        assert heavy == [], start
        assert status == start.status, (start, errors)
