"""Steps without any label, and runs on labelled token files: every layout and a resumed run do the same."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.batch import PackedBatch
from data.loader import GlobalBatch
from data.packing.spans import BatchShape
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from model.attention.core import choose_core
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.config import ParallelConfig
from parallel.mesh import Mesh, arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import (
    CLIP,
    CPU,
    RATE,
    adamw,
    everything,
    small_configuration,
    trainer_of,
)
from tests.parity.layout_cases import MODELS, TOKENS, Case
from tests.parity.streams import (
    BASE,
    NUM_SOURCES,
    SEED,
    Z_LOSS,
    part_of_rank,
    streams,
    valid_by_source,
)
from train import job
from train.configuration.compose import compose_run
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage
from train.step import StepResult, optimizer_step
from train.trainer import Trainer

ALONE = Case(1, 1, 1, 1, "-", "-", 1, "cohere", "everything")
MODEL = MODELS[ALONE.model]
# Numbers of streams; the second one has no label.
STREAMS = (0, 3, 2)
LAYOUTS = (
    ParallelConfig(tensor=2),
    ParallelConfig(sequence=2, zero_stage=2),
    ParallelConfig(pipeline=2, zero_stage=1),
    ParallelConfig(zero_stage=1),
    ParallelConfig(zero_stage=3),
)


def one_process() -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, gradient norms and weights after the steps, in plain torch."""
    model = Transformer(MODEL, choose_core("dense", CPU, torch.float32))
    initialize(model, MODEL, SEED)
    named = list(model.named_parameters())
    take_step, losses, norms = adamw(named), [], []
    for number in STREAMS:
        (stream,) = streams(ALONE, number)
        model.zero_grad()
        hidden_TD = model(stream.tokens_T, PackedLayout.from_lengths(stream.lengths), BASE)
        sums = model.loss(hidden_TD, stream.targets_T, Z_LOSS)
        (sums.total / max(1, stream.valid_tokens)).backward()
        losses.append(float(sums.loss_sum) / stream.valid_tokens if stream.valid_tokens else 0.0)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        take_step()
    return losses, norms, {name: parameter.detach() for name, parameter in named}


def take(trainer: Trainer, mesh: Mesh, parallel: ParallelConfig, stream: PackedBatch) -> StepResult:
    """A step in which every data rank has the same stream in two micro-batches."""
    held = part_of_rank(stream, MODEL, mesh, parallel)
    copies = 2 * mesh.data.size
    valid = tuple(copies * count for count in valid_by_source([stream]))
    shape = BatchShape(TOKENS, copies * TOKENS, TOKENS, (1.0,) * NUM_SOURCES)
    stage = Stage("only", 0, 0, len(STREAMS), shape, BaseCurve(((0, BASE),)), None)
    batch = GlobalBatch(shape, (held, held), valid, 0, {})
    return optimizer_step(
        trainer, mesh, batch, point=Point(stage, RATE, BASE, MODEL), stop=False, limit=9.0
    )


def test_a_step_without_any_label_is_one_with_gradients_of_zero_in_every_layout() -> None:
    small_configuration()
    losses, norms, weights = one_process()
    assert streams(ALONE, STREAMS[1])[0].valid_tokens == norms[1] == 0

    def work(rank: int, world_size: int) -> list[Any]:
        world, found = start(CPU, 60).world, []
        for parallel in LAYOUTS:
            mesh = arrange(world, parallel.topology(world_size))
            trainer = trainer_of(mesh, MODEL, parallel)
            results = [
                take(trainer, mesh, parallel, streams(ALONE, number)[0]) for number in STREAMS
            ]
            found.append((results, everything(trainer, mesh)))
            trainer.engine.close()
        return found

    for rank_found in run_on_ranks(work, 2):
        for parallel, (results, found) in zip(LAYOUTS, rank_found, strict=True):
            assert all(result.applied for result in results), parallel
            assert math.isnan(results[1].loss) and math.isnan(results[1].z_loss)
            assert all(map(math.isnan, results[1].loss_by_source))
            # float32: a few units in the last place over sums of some hundred terms.
            taken = [results[0].loss, results[2].loss]
            assert taken == pytest.approx([losses[0], losses[2]], rel=2e-6)
            assert [r.gradient_norm for r in results] == pytest.approx(norms, rel=1e-5)
            for name, weight in weights.items():
                torch.testing.assert_close(
                    found[name]["weight"], weight, rtol=1e-4, atol=2e-6, msg=f"{name} {parallel}"
                )


@pytest.fixture(scope="module")
def asked(small_corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The prefix of 40 documents: a question of some hundred tokens without labels, an answer of a few with them."""
    folder = tmp_path_factory.mktemp("asked")
    with (folder / "asked.jsonl").open("w") as file:
        for number in range(40):
            question = " ".join(str(number * i) for i in range(60 + number))
            file.write(json.dumps({"question": f"{question}? ", "text": f"{number}."}) + "\n")
    prepare(
        PrepareOptions(
            inputs=(str(folder / "asked.jsonl"),),
            output=str(folder / "asked"),
            tokenizer=small_corpus.tokenizer,
            unlabelled_field="question",
            show_progress=False,
        )
    )
    return str(folder / "asked")


@pytest.fixture
def train(
    asked: str, small_corpus: Any, small_run: Callable[..., list[str]]
) -> Callable[..., list[dict[str, Any]]]:
    """Trains on two sources, the first with labels, in a folder and on a number of ranks; returns the rows."""

    def trained(folder: Path, ranks: int, **changes: str) -> list[dict[str, Any]]:
        sources = f"{{asked:{{prefix:{asked},weight:4}},plain:{{prefix:{small_corpus.train}}}}}"
        config = compose_run(
            small_run(
                folder,
                **{
                    "+data.sources": sources,
                    "data.heldout": asked,
                    "schedule.stages.first.batch_tokens": "128",
                    "schedule.stages.first.micro_batch_tokens": "64",
                    "schedule.stages.first.tokens": "1024",
                    "train.max_steps": "10",
                    **changes,
                },
            )
        )
        assert set(run_on_ranks(lambda *_: job.run_job(config), ranks)) == {0}
        lines = (folder / "small/metrics.jsonl").read_text().splitlines()
        kept = ("valid_tokens", "loss", "gradient_norm", "sources", "padding_fraction")
        return [{key: row[key] for key in kept} for row in map(json.loads, lines)]

    return trained


@pytest.mark.slow
def test_runs_on_labelled_files_agree_in_all_layouts_and_after_a_resume(
    train: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    straight = train(tmp_path / "straight", 1)
    assert len(straight) == 10
    assert any(row["loss"] is None and row["valid_tokens"] == 0 for row in straight)
    assert any(row["sources"]["asked"]["tokens"] for row in straight)
    assert any(row["sources"]["plain"]["tokens"] for row in straight)

    train(tmp_path / "resumed", 1, **{"train.max_steps": "5"})
    assert train(tmp_path / "resumed", 1) == straight
    folders = [
        tmp_path / name / "small/checkpoints/step_00000010" for name in ("straight", "resumed")
    ]
    for path in folders[0].glob("*.safetensors"):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()

    other = train(tmp_path / "other", 2, **{"parallel.sequence": "2"})
    for mine, theirs in zip(straight, other, strict=True):
        assert mine["valid_tokens"] == theirs["valid_tokens"]
        assert (mine["loss"] or 0.0) == pytest.approx(theirs["loss"] or 0.0, rel=1e-5)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-5)
