"""A run with evaluations after every step is, bit by bit, the run without them, whatever an evaluation does."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from parallel.engine.zero_adapters import ZeroThree
from ranks import run_on_ranks
from train.checkpointing.state import read_state
from train.configuration.compose import compose_run
from train.evaluation import tasks
from train.job import run_job
from train.schedule.stages import Point
from train.trainer import Trainer

Arguments = Callable[..., list[str]]
Pair = tuple[Path, Path, list[Any]]
LAYOUTS = {
    "tensor": "{tensor: 2}",
    "sequence": "{sequence: 2, zero_stage: 2}",
    "pipeline": "{pipeline: 2}",
    "sharded": "{zero_stage: 3}",
}
STEPS = 2
STAGE = (
    "{tokens: %d, sequence_length: 64, batch_tokens: 256, micro_batch_tokens: 128, parallel: %s}"
)
CHANGES = {
    "model.layer_pattern": "[window_rope,full_nope]",
    "model.num_layers": "2",
    "model.num_kv_heads": "2",
    "model.gate": "sigmoid",
    "logging.gate_steps": "1",
    "preflight.enabled": "false",
    "checkpoint.keep": "1",
}
EVALUATED = {
    "evaluation.max_tokens": "512",
    "evaluation.every_steps": "1",
    "evaluation.yardstick_tokens": "100",
    "+evaluation.tasks": "{passkey: {lengths: [96], samples: 1, depths: 1}}",
}
TASKS = 3
# What a clock, the allocator or the number of evaluations decides.
NOT_COMPARED = {
    "step_seconds",
    "tokens_per_second",
    "model_flops_per_second",
    "seconds",
    "peak_memory_bytes",
    "stragglers",
}


class Hostile:
    """A task that draws from every generator of random numbers."""

    every_steps = 1

    def evaluate(self, trainer: Trainer, point: Point) -> dict[str, Any]:  # noqa: ARG002
        return {"drawn": [random.random(), np.random.rand(), float(torch.rand(()))]}

    def sentence(self, row: Mapping[str, Any]) -> str:
        return f"{row['drawn']}"

    def numbers(self, row: Mapping[str, Any]) -> dict[str, float]:
        return {"drawn": row["drawn"][0]}

    def table(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"drawn": row["drawn"][0]} for row in rows]


def compose(small_run: Arguments, outputs: Path, name: str, **changes: str) -> Any:
    schedule = outputs / "layouts.yaml"
    stages = ", ".join(
        f"{stage}: {STAGE % (256 * STEPS, layout)}" for stage, layout in LAYOUTS.items()
    )
    rate = "{shape: constant, peak: 1.0e-3}"
    schedule.write_text(f"{{learning_rate: {rate}, stages: {{{stages}}}}}")
    return compose_run(
        small_run(outputs, run_name=name, **CHANGES, **changes, schedule=str(schedule))
    )


def rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        yield from load_file(path).items()


@pytest.fixture(scope="module")
def pair(small_run: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Folders of the run without and with evaluations, and what every rank of the second saw after each of them."""
    outputs = tmp_path_factory.mktemp("pair")
    without = compose(small_run, outputs, "without", **{"evaluation.enabled": "false"})
    config = compose(small_run, outputs, "evaluated", **EVALUATED)

    def watched(*_: int) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            seen = watch(patch)
            patch.setattr(tasks, "TASKS", {**tasks.TASKS, "hostile": lambda *_: Hostile()})
            assert run_job(config) == 0
        return seen

    assert set(run_on_ranks(lambda *_: run_job(without), 2)) == {0}
    return outputs / "without", outputs / "evaluated", run_on_ranks(watched, 2)


def watch(patch: pytest.MonkeyPatch) -> list[Any]:
    """After every evaluation under ZeRO-3: weights gathered, whether the order is known, how often it was given up."""
    seen: list[Any] = []
    plain = ZeroThree.only_forwards
    given_up: list[Any] = []

    @contextmanager
    def only_forwards(adapter: Any) -> Iterator[None]:
        order = adapter._zero.parameter_offload.get_param_coordinator()
        original = type(order)._invalidate_trace
        order._invalidate_trace = lambda: (given_up.append(order), original(order))
        with plain(adapter):
            yield
        weights = adapter._engine.module.parameters()
        left = [weight for weight in weights if weight.ds_status.name != "NOT_AVAILABLE"]
        seen.append((len(left), not order.is_invalid_trace(), len(given_up)))

    patch.setattr(ZeroThree, "only_forwards", only_forwards)
    return seen


def test_every_number_of_training_is_that_of_the_run_without_evaluations(pair: Pair) -> None:
    """Losses, norms and everything else of a row: traffic meters and sums of gates too, and under every layout."""
    without, evaluated, _ = pair
    for one, other in zip(rows(without), rows(evaluated), strict=True):
        assert compared(one) == compared(other)
        assert ("sequence_bytes_received" in one) == (one["stage"] == "sequence")
        assert one["gate_stripes"]


def test_weights_and_moments_and_the_place_in_the_data_are_those_of_the_run_without_evaluations(
    pair: Pair,
) -> None:
    folders = [
        next(folder.glob(f"checkpoints/step_{STEPS * len(LAYOUTS):08}")) for folder in pair[:2]
    ]
    one, other = (dict(tensors(folder)) for folder in folders)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [asdict(read_state(folder)) for folder in folders]
    assert states[0]["cursor"] == states[1]["cursor"] != {}
    assert states[0] == states[1]


def test_an_evaluation_that_draws_from_every_generator_draws_the_same_again(pair: Pair) -> None:
    drawn = {str(row["drawn"]) for row in rows(pair[1], "evaluation") if row["task"] == "hostile"}
    assert len(drawn) == 1


def test_zero_3_has_no_weight_gathered_and_its_order_kept_after_an_evaluation(pair: Pair) -> None:
    for seen in pair[2]:
        assert len(seen) == STEPS * TASKS
        assert all(gathered == 0 for gathered, *_ in seen)
        assert all(recorded for _, recorded, _ in seen)
        assert all(given_up == 0 for *_, given_up in seen)


def test_a_row_says_what_its_evaluation_took(pair: Pair) -> None:
    for row in rows(pair[1], "evaluation"):
        assert row["seconds"] > 0
        assert (row["tokens_per_second"] > 0) == (row["task"] != "hostile")
        assert row["peak_memory_bytes"] is None or row["peak_memory_bytes"] > 0


def compared(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in NOT_COMPARED}
