"""Held-out documents of every source: a row for each, and their mean in the mix of the stage."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from tests.conftest import SmallCorpus
from train.configuration.compose import compose_run
from train.evaluation.mixed_held_out import mean_of, shares
from train.evaluation.undisturbed import COST
from train.job import run_job

Arguments = Callable[..., list[str]]
STAGE = "{tokens: 256, sequence_length: 64, batch_tokens: 256, micro_batch_tokens: 64, data: %s}"
MIXES = {"first": {"web": 3.0, "code": 1.0, "made": 4.0}, "second": {"web": 0.0, "code": 1.0}}
GENERATED = "{task: copy, heldout: 4, min_length: 64, max_length: 64, ids: 9, first_id: 5}"


def of_sources(corpus: SmallCorpus, code_heldout: str) -> str:
    web = f"prefix: {corpus.train}, heldout: {corpus.heldout}"
    code = f"prefix: {corpus.heldout}, heldout: {code_heldout}"
    return f"{{web: {{{web}}}, code: {{{code}}}, made: {{generated: {GENERATED}}}}}"


def arguments(small_run: Arguments, outputs: Path, sources: str, heldout: str = "''") -> list[str]:
    schedule = outputs / "two.yaml"
    stages = ", ".join(f"{name}: {STAGE % json.dumps(mix)}" for name, mix in MIXES.items())
    rate = "{shape: constant, peak: 1.0e-3}"
    schedule.write_text(f"{{learning_rate: {rate}, stages: {{{stages}}}}}")
    changes = {
        "+data.sources": sources,
        "data.heldout": heldout,
        "schedule": str(schedule),
        "evaluation.max_tokens": "512",
        "evaluation.yardstick_tokens": "1000",
        "preflight.enabled": "false",
    }
    return small_run(outputs, **changes)


@pytest.mark.parametrize("both", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_source_has_a_row_and_the_mean_has_the_weights_of_the_stage(
    small_run: Arguments, small_corpus: SmallCorpus, tmp_path: Path, both: bool
) -> None:
    sources = of_sources(small_corpus, small_corpus.train)
    given = small_corpus.heldout if both else "''"
    config = compose_run(arguments(small_run, tmp_path, sources, given))
    ranks = 1 if both else 2
    assert set(run_on_ranks(lambda *_: run_job(config), ranks)) == {0}
    lines = (tmp_path / "small/evaluation.jsonl").read_text().splitlines()
    found = {(row["stage"], row["task"]): row for row in map(json.loads, lines)}
    parts = [f"held_out_{name}" for name in ("web", "code", "made")]
    mean = "held_out_mix" if both else "held_out"
    of_run = ["held_out"] if both else []
    assert list(found) == [(stage, task) for stage in MIXES for task in [*of_run, *parts, mean]]
    for stage, weights in (("first", [0.375, 0.125, 0.5]), ("second", [0.0, 1.0, 0.0])):
        rows = [found[stage, task] for task in parts]
        of_mean = found[stage, mean]
        assert of_mean["weights"] == dict(zip(("web", "code", "made"), weights, strict=True))
        for key in ("loss", "bigram_loss", "last_quarter_loss"):
            wanted = sum(row[key] * one for row, one in zip(rows, weights, strict=True))
            assert of_mean[key] == pytest.approx(wanted, rel=1e-12)
        assert of_mean["tokens"] == sum(row["tokens"] for row in rows)
        buckets = [row["position_buckets"][1]["loss"] for row in rows]
        wanted = sum(value * one for value, one in zip(buckets, weights, strict=True))
        assert of_mean["position_buckets"][1]["loss"] == pytest.approx(wanted, rel=1e-12)
    if both:
        web, alone = found["first", "held_out_web"], found["first", "held_out"]
        assert without_cost(web) == without_cost(alone), "the same files"


def without_cost(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in (*COST, "task")}


def test_the_mean_leaves_out_what_has_no_number_and_weighs_alike_without_weights() -> None:
    assert shares([1.0, 3.0]) == [0.25, 0.75]
    assert shares([0.0, 0.0]) == [0.5, 0.5]
    bucket = {"start": 0, "end": 32}
    rows = [
        {
            "sequence_length": 64,
            "loss": 1.0,
            "tokens": 5,
            "position_buckets": [bucket | {"loss": None}],
        },
        {
            "sequence_length": 64,
            "loss": 5.0,
            "tokens": 7,
            "position_buckets": [bucket | {"loss": 2.0}],
        },
    ]
    assert mean_of(rows, [0.25, 0.75]) == {
        "sequence_length": 64,
        "loss": 4.0,
        "tokens": 12,
        "position_buckets": [bucket | {"loss": 2.0}],
    }
    assert mean_of(rows, [1.0, 0.0])["position_buckets"] == [bucket | {"loss": None}]


def test_a_source_that_cannot_have_such_files_is_named(
    small_run: Arguments, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    missing = of_sources(small_corpus, str(tmp_path / "none"))
    made = (
        f"{{web: {{prefix: {small_corpus.train}}}, made: {{heldout: x, generated: {GENERATED}}}}}"
    )
    for sources, said in (
        (missing, "data.sources.code.heldout=.*none: no .*none.bin"),
        (made, "data.sources.made.heldout=.*has held-out documents of its own"),
    ):
        config = compose_run(arguments(small_run, tmp_path, sources))
        assert any(re.match(said, line) for line in config.data.problems())
