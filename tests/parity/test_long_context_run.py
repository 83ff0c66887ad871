"""A run with LongCE and LongPPL has the numbers of one rank under every layout and ZeRO stage."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.job import run_job

LAYOUTS = (
    {"zero_stage": "0"},
    {"zero_stage": "2"},
    {"zero_stage": "3"},
    {"tensor": "2"},
    {"sequence": "2", "sequence_layout": "balanced"},
    {"sequence": "2", "zero_stage": "3"},
    {"pipeline": "2", "pipeline_schedule": "zbv"},
)
CHANGES = {
    "train.max_steps": "3",
    "train.long_ce": "{window_tokens: 8, cap: 1.01}",
    "train.z_loss": "1e-4",
    "train.keep_for_backward": "input",
    "model.init_std": "0.4",
    "evaluation.yardstick_tokens": "100",
    "preflight.enabled": "false",
}
WINDOWED = "{form: windowed, context_tokens: 8, alpha: 0.05, beta: 20}"
OFFICIAL = "{form: official, context_tokens: 8, step_tokens: 4, alpha: 0.05, beta: 20}"
# Of a step, and of LongPPL.
TRAINED = ("loss", "long_ce_loss", "gradient_norm")
EXACT = ("key_tokens", "candidate_tokens", "tokens", "documents")


def run(arguments: list[str], folder: Path, ranks: int) -> tuple[list[Any], list[Any]]:
    config = compose_run(arguments)
    assert set(run_on_ranks(lambda *_: run_job(config), ranks)) == {0}
    return (
        [json.loads(line) for line in (folder / "small/metrics.jsonl").read_text().splitlines()],
        [
            row
            for row in map(json.loads, (folder / "small/evaluation.jsonl").read_text().splitlines())
            if row["task"] == "long_perplexity"
        ],
    )


@pytest.mark.slow
@pytest.mark.parametrize(("form", "layouts"), [(WINDOWED, LAYOUTS), (OFFICIAL, LAYOUTS[2:4])])
def test_losses_and_key_tokens_are_those_of_one_rank(
    form: str,
    layouts: Sequence[dict[str, str]],
    small_run: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    changes = CHANGES | {"evaluation.long_perplexity": form}
    steps, evaluations = run(small_run(tmp_path / "one", **changes), tmp_path / "one", 1)
    assert [row["long_ce_loss"] != row["loss"] for row in steps] == [True] * 3
    (expected,) = evaluations
    assert 0 < expected["key_tokens"] < expected["candidate_tokens"] < expected["tokens"]
    for number, layout in enumerate(layouts):
        folder = tmp_path / str(number)
        more = {f"parallel.{name}": value for name, value in layout.items()}
        found_steps, found_evaluations = run(small_run(folder, **changes, **more), folder, 2)
        for mine, theirs in zip(found_steps, steps, strict=True):
            for name in TRAINED:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-5), (layout, name)
            assert mine["valid_tokens"] == theirs["valid_tokens"]
        (found,) = found_evaluations
        assert [found[name] for name in EXACT] == [expected[name] for name in EXACT], layout
        for name in ("perplexity", "long_perplexity"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), (layout, name)
