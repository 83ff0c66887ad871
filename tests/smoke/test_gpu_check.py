"""The measuring parts of the GPU check run from end to end, small, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("speed", "huggingface", "longest")


@pytest.mark.slow
def test_measuring_parts_rehearse_on_a_cpu(tmp_path):
    """Every row is measured and nothing failed; the numbers of a rehearsal mean nothing."""
    command = [sys.executable, "tests/gpu/gpu_check.py", "--rehearse", "--outputs", str(tmp_path)]
    done = subprocess.run(
        [*command, "--parts", *PARTS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": ".:tests"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "benchmarks" / "gpu_check.json").read_text())
    tables = (tmp_path / "benchmarks" / "gpu_check.md").read_text()
    assert tuple(record["parts"]) == PARTS
    assert "not_measured" not in json.dumps(record)
    stacks = {row["row"]["model"] for row in record["parts"]["speed"]["numbers"]}
    assert stacks == {"1b", "3b"}
    assert "DeepSpeed ZeRO-1" in tables
    assert tables.count("###") == len(PARTS)
