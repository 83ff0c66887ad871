"""The loop around the step: evaluation against an oracle, refusals, saving without trace."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.batch import RankReader
from data.held_out import evaluation_batches
from data.ngram import fit
from data.sources import Corpus
from model.attention.core import choose_core
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.checkpoint import tensors
from parallel.mesh import Mesh, start
from ranks import run_on_ranks
from tests.conftest import SmallCorpus
from train import build
from train.checkpointing.continuation import find_resume
from train.configuration.compose import compose_run
from train.configuration.schema import RunConfig
from train.evaluation import tasks
from train.evaluation.held_out import HeldOut, HeldOutLoss, bucket_edges, evaluate
from train.evaluation.undisturbed import COST
from train.health.stop_signal import StopSignal
from train.job import run_job
from train.loop import train
from train.objective import MicroBatch
from train.records.console import Progress
from train.report.record import read_run
from train.run import Run
from train.schedule.stages import Point, Schedule, build_schedule
from train.trainer import Trainer

CPU = torch.device("cpu")
LENGTH = 128
Arguments = Callable[..., list[str]]


def started(config: RunConfig) -> tuple[Mesh, Schedule, Corpus, Run]:
    schedule, problems = build_schedule(config)
    assert schedule is not None, problems
    mesh = start(CPU, 60)
    corpus = build.prepare_corpus(config, mesh)
    resume, state = build.start_state(config, mesh, schedule=schedule, corpus=corpus)
    run = build.build_run(
        config, mesh, schedule=schedule, corpus=corpus, state=state, resume=resume
    )
    return mesh, schedule, corpus, run


def held_out(corpus: Corpus, config: RunConfig, rank: int, ranks: int) -> HeldOut:
    streams = evaluation_batches(
        corpus.heldout,
        RankReader([corpus.heldout], corpus.eos_id, rank, ranks),
        sequence_length=LENGTH,
        micro_batch_tokens=LENGTH,
        max_tokens=4096,
    )
    first = corpus.sources[0]
    yardstick = fit(first.dataset, config.model.vocab_size, max_tokens=10**6)
    return HeldOut(LENGTH, streams, yardstick)


def evaluated_by_hand(config: RunConfig, held: HeldOut) -> np.ndarray:
    """Sums of plain cross-entropy by position, and counts."""
    model = Transformer(config.model, choose_core("dense", CPU, torch.float32))
    initialize(model, config.model, config.seed)
    sums = np.zeros((2, LENGTH))
    for stream in held.streams:
        layout = PackedLayout.from_lengths(stream.lengths, CPU)
        with torch.no_grad():
            logits = model.logits(model(stream.tokens_T, layout, 1e4)).double()
        losses = F.cross_entropy(logits, stream.targets_T, reduction="none", ignore_index=-100)
        for position, loss, target in zip(
            layout.positions_T.tolist(), losses.tolist(), stream.targets_T.tolist(), strict=True
        ):
            if target != -100:
                sums[:, position] += (loss, 1)
    return sums


@pytest.mark.parametrize(("ranks", "zero_stage"), [(1, 1), (2, 1), (3, 3)])
def test_evaluation_is_the_mean_over_positions_on_any_layout(
    small_run: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    zero_stage: int,
) -> None:
    # The segments here are shorter than 500 tokens.
    monkeypatch.setattr("train.evaluation.held_out._LAST_TOKENS", 40)
    arguments = small_run(
        tmp_path,
        **{"parallel.zero_stage": str(zero_stage), "schedule.stages.first.batch_tokens": "384"},
        **{"schedule.stages.second.batch_tokens": "384"},
    )

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> Any:
        mesh, _, corpus, run = started(config)
        found = evaluate(run.trainer, mesh, held_out(corpus, config, rank, world_size), 1e4)
        by_hand = evaluated_by_hand(config, held_out(corpus, config, 0, 1)) if rank == 0 else None
        return found, by_hand

    results = run_on_ranks(work, ranks)
    found, (losses, counts) = results[0]
    assert all(result[0] == found for result in results)
    assert found["tokens"] == counts.sum()
    assert found["loss"] == pytest.approx(losses.sum() / counts.sum(), rel=1e-6)
    assert (
        [b["start"] for b in found["position_buckets"]] == bucket_edges(LENGTH)[:-1] == [0, 32, 64]
    )
    for bucket in found["position_buckets"]:
        part = slice(bucket["start"], bucket["end"])
        assert bucket["tokens"] == counts[part].sum()
        assert bucket["loss"] == pytest.approx(losses[part].sum() / counts[part].sum(), rel=1e-6)
    for key, part in (("first", slice(0, 32)), ("last", slice(96, 128))):
        expected = losses[part].sum() / counts[part].sum()
        assert found[f"{key}_quarter_loss"] == pytest.approx(expected, rel=1e-6)
    last = losses[-40:].sum() / counts[-40:].sum()
    assert found["last_500_loss"] == pytest.approx(last, rel=1e-6)
    assert 0 < found["bigram_loss"] < found["unigram_loss"]


class PositionsAsLosses:
    """A trainer whose losses are the positions; notes how many streams it is given."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.given: list[int] = []

    def token_losses(self, micro_batches: Sequence[MicroBatch], _: float) -> list[Tensor]:
        self.given.append(len(micro_batches))
        return [one.layout.positions_T.float() for one in micro_batches]


def test_streams_are_evaluated_in_groups_with_the_same_result(
    small_run: Arguments, tmp_path: Path
) -> None:
    config = compose_run(small_run(tmp_path))

    def work(rank: int, world_size: int) -> tuple[bool, list[int], int]:
        mesh = start(CPU, 60)
        held = held_out(build.prepare_corpus(config, mesh), config, 0, 1)
        alone, in_groups = PositionsAsLosses(1), PositionsAsLosses(5)
        same = evaluate(alone, mesh, held, 1e4) == evaluate(in_groups, mesh, held, 1e4)
        return same, in_groups.given, len(held.streams)

    ((same, given, number),) = run_on_ranks(work, 1)
    assert same
    assert sum(given) == number
    assert number % 5
    assert given[:-1] == [5] * (number // 5)


class LongestWeight:
    """A task that a test adds: the largest number of elements of a parameter this rank trains."""

    every_steps = 8

    def evaluate(self, trainer: Trainer, point: Point) -> dict[str, Any]:
        named = trainer.engine.parameters.named
        largest = max(parameter.numel() for parameter in named.values())
        return {"largest": largest, "base": point.rope_base, "length": point.lengths[-1]}

    def sentence(self, row: Mapping[str, Any]) -> str:
        return f"{row['largest']} elements"

    def numbers(self, row: Mapping[str, Any]) -> dict[str, float]:
        return {"largest": row["largest"]}

    def table(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{"step": row["step"], "largest": row["largest"]} for row in rows]


def test_a_task_of_one_class_and_one_row_is_evaluated_written_and_said(
    small_run: Arguments,
    small_corpus: SmallCorpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = (
        f"{{all:{{prefix:{small_corpus.train},weight:3.0}},rest:{{prefix:{small_corpus.heldout}}}}}"
    )
    arguments = small_run(
        tmp_path,
        **{"train.max_steps": "20", "+data.sources": both, "train.peak_flops_per_second": "1e9"},
    )
    added = {**tasks.TASKS, "longest_weight": lambda *_: LongestWeight()}
    monkeypatch.setattr(tasks, "TASKS", added)
    run_on_ranks(lambda *_: run_job(compose_run(arguments)), 1)
    lines = (tmp_path / "small/evaluation.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # At its own steps and at the ends of both stages.
    both, alone = ["held_out", "longest_weight"], ["longest_weight"]
    assert [row["task"] for row in rows] == alone + both + alone + both
    assert [row["step"] for row in rows] == [8, 10, 10, 16, 20, 20]
    [held, row] = rows[1:3]
    assert row == {
        **{key: held[key] for key in ("step", "stage", "tokens_seen")},
        **{"task": "longest_weight", "largest": 320 * 32, "base": 10_000.0, "length": 64},
        **{key: row[key] for key in COST},
    }
    drawn = HeldOutLoss.numbers(held)
    assert drawn["loss"] == held["loss"]
    bucket = held["position_buckets"][1]
    assert drawn["loss_from_position_32"] == bucket["loss"]
    said = (tmp_path / "small/log.txt").read_text()
    assert "longest weight after first: 10240 elements" in said
    record = read_run(tmp_path / "small")
    assert len(record.evaluations) == 2
    assert all(step_is_its_sources(row) for row in record.steps)
    shares = [row["source_shares"]["all"] for row in record.steps]
    assert sum(shares) / len(shares) == pytest.approx(0.75, abs=0.05)


def step_is_its_sources(row: Mapping[str, Any]) -> bool:
    """Whether tokens and losses of sources give those of the step, and the MFU is the rate by the peak."""
    of_sources = row["sources"].values()
    tokens = sum(source["tokens"] for source in of_sources)
    loss = sum(source["tokens"] * (source["loss"] or 0.0) for source in of_sources) / tokens
    assert list(row["sources"]) == ["all", "rest"]
    assert row["mfu"] == row["model_flops_per_second"] / 1e9
    assert row["source_shares"]["rest"] == row["sources"]["rest"]["tokens"] / tokens
    return tokens == row["valid_tokens"] and loss == pytest.approx(row["loss"], rel=1e-6)


def test_folders_that_hold_results_are_not_overwritten(
    small_run: Arguments, tmp_path: Path
) -> None:
    folder = tmp_path / "small/checkpoints/step_00000009"
    folder.mkdir(parents=True)
    (tmp_path / "small/metrics.jsonl").touch()
    for name in ("step_00000005", "step_00000009"):
        (folder.parent / name).mkdir(exist_ok=True)
        (folder.parent / name / "state.json").touch()

    def resume(value: str) -> Path | None:
        return find_resume(compose_run(small_run(tmp_path, **{"checkpoint.resume": value})))

    assert resume("auto") == resume(str(folder)) == folder
    assert resume(str(tmp_path)) == folder, "a run that was branched off goes on by itself"
    with pytest.raises(ValueError, match="choose another run_name"):
        resume("never")
    with pytest.raises(ValueError, match="to branch off"):
        resume(str(folder.with_name("step_00000005")))


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_saving_leaves_no_trace_in_the_run(
    small_run: Arguments, tmp_path: Path, zero_stage: int
) -> None:
    def losses(name: str, saves: bool) -> list[float]:
        arguments = small_run(
            tmp_path,
            run_name=name,
            **{
                "parallel.zero_stage": str(zero_stage),
                "train.max_steps": "5",
                "evaluation.enabled": "false",
            },
        )

        config = compose_run(arguments)

        def work(rank: int, world_size: int) -> None:
            _, schedule, corpus, run = started(config)
            progress = Progress(schedule, tokens_seen=0, total_tokens=1, seconds=9, speaks=False)
            with build.build_loader(run, corpus) as loader:

                def watched() -> Any:
                    for batch in loader:
                        if saves:
                            tensors.gather_owned(run.trainer.engine)
                        yield batch

                train(run, watched(), progress, StopSignal())
            run.checkpoints.close()

        run_on_ranks(work, 2)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert losses("saving", True) == losses("not_saving", False)
