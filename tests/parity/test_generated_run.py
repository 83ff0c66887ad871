"""A mix of generated documents and files trains alike under every layout, and goes on where it stopped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.job import run_job

SOURCES = (
    "copy: {generated: {task: copy, min_length: 40, max_length: 150, span: 8, min_distance: 9, max_distance: 20}}",
    "recall: {generated: {task: key_value, first_id: 250, ids: 40, min_length: 30, max_length: 70, queries: 2}}",
)  # fmt: skip


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "small" / name).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [("tensor", "sequence"), ("sequence", "data", "pipeline")])
def test_a_run_is_the_same_under_every_layout_and_goes_on_in_another(
    small_corpus: Any, small_run: Callable[..., list[str]], tmp_path: Path, axes: tuple[str, ...]
) -> None:
    """One rank trains without a stop; two ranks train two steps on each axis in turn."""
    files = f"files: {{prefix: {small_corpus.train}, weight: 0.5}}"

    def train(folder: Path, steps: int, ranks: int, **more: str) -> None:
        arguments = small_run(
            folder,
            **{
                "+data.sources": f"{{{', '.join([files, *SOURCES])}}}",
                "train.max_steps": str(steps),
                "preflight.enabled": "false",
                **more,
            },
        )
        assert set(run_on_ranks(lambda *_: run_job(compose_run(arguments)), ranks)) == {0}

    train(tmp_path / "one", 2 * len(axes), 1, **{"evaluation.yardstick_tokens": "2000"})
    for number, axis in enumerate(axes, start=1):
        layout = {"evaluation.enabled": "false"}
        layout |= {} if axis == "data" else {f"parallel.{axis}": "2"}
        train(tmp_path / "two", 2 * number, 2, **layout)
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert [row["step"] for row in two] == [*range(1, 2 * len(axes) + 1)]
    for mine, theirs in zip(one, two, strict=True):
        for key in ("valid_tokens", "tokens_seen", "padding_fraction"):
            assert mine[key] == theirs[key]
        assert 0 < mine["valid_tokens"] < 400, (
            "512 tokens a step, and most of the generated ones do not count"
        )
        # float32: sums of some hundred terms in another order.
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=2e-6)
        assert theirs["gradient_norm"] == pytest.approx(mine["gradient_norm"], rel=1e-5)
        of_source = {name: source["tokens"] for name, source in mine["sources"].items()}
        assert list(of_source) == ["files", "copy", "recall"]
        assert of_source == {name: source["tokens"] for name, source in theirs["sources"].items()}
    assert sum(row["sources"]["recall"]["tokens"] for row in one) > 12
    evaluated = rows(tmp_path / "one", "evaluation.jsonl")
    assert [row["task"] for row in evaluated] == ["held_out", "held_out_copy", "held_out_recall"]
    assert all(0 < row["tokens"] < 2_048 and row["loss"] > 4 for row in evaluated)
