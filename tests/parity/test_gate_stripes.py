"""The stripe measure of output gates: its formula, and the same numbers on any layout, counted once.

The runs measure the health of layers too, whose numbers are those of `test_layer_health.py`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.attention.gate_sums import GateSums, stripes
from model.config import ModelConfig
from model.layer_pattern import KindConfig
from ranks import run_on_ranks
from train.configuration import validate
from train.configuration.compose import compose_run
from train.job import run_job

Arguments = Callable[..., list[str]]


def test_the_measure_is_that_of_its_formula_and_a_recomputation_does_not_count() -> None:
    kinds = {"full_nope": KindConfig(gate="softplus", gate_over="channel")}
    config = ModelConfig(num_layers=4, kinds=kinds)
    sums, product_TW = GateSums(config, torch.device("cpu")), torch.randn(50, 128).double() * 0.2
    sums.begin()
    with sums.counting():
        sums.add(3, "softplus", product_TW[:20])
        sums.add(3, "softplus", product_TW[20:])
        with torch.no_grad(), sums.counting():
            sums.add(3, "softplus", product_TW)
    sums.add(3, "softplus", product_TW)
    a = torch.nn.functional.softplus(product_TW)
    s = a.std(dim=0, correction=0) / a.mean(dim=0)
    (found,) = stripes(sums.sums, sums.widths).values()
    assert found["median"] == pytest.approx(float(s.quantile(0.5)), abs=1e-12)
    assert found["constant_share"] == float((s < 0.1).double().mean())


def rows(arguments: list[str], folder: Path, ranks: int) -> list[dict[str, Any]]:
    config = compose_run(arguments)
    assert validate.problems(config, ranks) == []
    assert run_on_ranks(lambda *_: run_job(config), ranks) == [0] * ranks
    return [json.loads(line) for line in (folder / "small/metrics.jsonl").read_text().splitlines()]


GATES = {
    "schedule.stages.first.tokens": "1024",
    "schedule.stages.second.tokens": "1024",
    "preflight.enabled": "false",
    "evaluation.enabled": "false",
    "model.gate": "sigmoid",
    "model.init_std": "0.2",
}
LAYOUTS = [
    {"parallel.tensor": "2", "train.keep_for_backward": "input"},
    pytest.param({"parallel.sequence": "2", "parallel.zero_stage": "3"}, marks=pytest.mark.slow),
    pytest.param({"parallel.tensor": "2", "model.block": "sequential"}, marks=pytest.mark.slow),
    pytest.param({"parallel.pipeline": "2", "train.keep_for_backward": "input"}, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_measures_are_the_same_on_any_layout_and_change_no_training(
    layout: dict[str, str], small_run: Arguments, tmp_path: Path
) -> None:
    block = {key: value for key, value in layout.items() if key.startswith("model.")}
    steps = {"logging.gate_steps": "2", "logging.layer_steps": "2"}
    one = rows(small_run(tmp_path / "one", **GATES, **block, **steps), tmp_path / "one", 1)
    cut = rows(small_run(tmp_path / "cut", **(GATES | layout | steps)), tmp_path / "cut", 2)
    off = {"logging.gate_steps": "0", "logging.layer_steps": "0"}
    plain = rows(small_run(tmp_path / "off", **GATES, **block, **off), tmp_path / "off", 1)
    assert [row["loss"] for row in one] == [row["loss"] for row in plain]
    assert [row["gradient_norm"] for row in one] == [row["gradient_norm"] for row in plain]
    measured = [row["step"] for row in one if "gate_stripes" in row]
    assert measured == [row["step"] for row in one if row["step"] % 2 == 0] and measured
    assert [row["step"] for row in one if "layers" in row] == measured
    assert not any("gate_stripes" in row or "layers" in row for row in plain)
    for ours, theirs in zip(one, cut, strict=True):
        for layer, found in ours.get("gate_stripes", {}).items():
            # As loss and gradient norm of float32 runs on other layouts (docs/interfaces.md).
            other = theirs["gate_stripes"][layer]
            assert found["median"] == pytest.approx(other["median"], rel=1e-5)
            assert found["constant_share"] == other["constant_share"]
        for layer, found in ours.get("layers", {}).items():
            numbers = {key: value for key, value in found.items() if key != "kind"}
            other = {key: theirs["layers"][layer][key] for key in numbers}
            assert numbers == pytest.approx(other, rel=1e-4), layer
