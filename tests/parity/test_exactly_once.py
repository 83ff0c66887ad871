"""The tokens behind the surviving weights of a run that was killed and went on with other ranks.

Every rank writes down the spans of each batch as it draws it, with its step. The first world dies in
the middle of a step after a checkpoint; a second one, with another number of ranks, goes on from it.
What the weights have seen is then: the first world's steps up to the checkpoint, and the second
world's. Over an epoch that must be each token of each document, once.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
import torch

from data.loader import GlobalBatch
from data.tokens.indexed_dataset import IndexedDataset
from parallel.mesh import start
from ranks import run_on_ranks
from train import build
from train.configuration.compose import compose_run
from train.health.stop_signal import StopSignal
from train.loop import train
from train.records.console import Progress
from train.run import Run
from train.schedule.stages import build_schedule

CHECKPOINT_EVERY = 3
DIES_IN_STEP = 8  # after the checkpoint of step 6 is complete, before the one of step 9


def written_down(
    run: Run, batches: Iterable[GlobalBatch], path: Path, dies: bool
) -> Iterator[GlobalBatch]:
    with path.open("a") as file:
        # The loop draws a batch before it is done with the one before.
        for step, batch in enumerate(batches, run.state.step + 1):
            spans = [astuple(span) for micro in batch.micro_batches for span in micro.spans]
            file.write(json.dumps([step, spans]) + "\n")
            file.flush()
            if dies and step == DIES_IN_STEP:
                run.checkpoints.wait()
                os._exit(9)
            yield batch


def world(arguments: list[str], folder: Path, ranks: int, *, dies: bool) -> None:
    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> None:
        schedule, _ = build_schedule(config)
        assert schedule is not None
        mesh = start(torch.device("cpu"), 60)
        corpus = build.prepare_corpus(config, mesh)
        resume, state = build.start_state(config, mesh, schedule=schedule, corpus=corpus)
        run = build.build_run(
            config, mesh, schedule=schedule, corpus=corpus, state=state, resume=resume
        )
        progress = Progress(schedule, tokens_seen=0, total_tokens=1, seconds=1, speaks=False)
        path = folder / f"spans-{'first' if dies else 'second'}-{rank}.jsonl"
        with build.build_loader(run, corpus) as loader:
            train(run, written_down(run, loader, path, dies), progress, StopSignal())
        run.checkpoints.close()

    run_on_ranks(work, ranks)


def spans(folder: Path, which: str, steps: range) -> list[Any]:
    found = []
    for path in sorted(folder.glob(f"spans-{which}-*.jsonl")):
        for line in path.read_text().splitlines():
            step, listed = json.loads(line)
            if step in steps:
                found += listed
    return found


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4)])
def test_every_token_of_an_epoch_once(
    small_corpus: Any, small_run: Any, tmp_path: Path, before: int, after: int
) -> None:
    dataset = IndexedDataset(small_corpus.train)
    half = dataset.num_tokens // 2
    arguments = small_run(
        tmp_path,
        **{
            "schedule.stages.first.tokens": str(half),
            "schedule.stages.second.tokens": str(2 * half),
            **{
                f"schedule.stages.{stage}.{what}_tokens": tokens
                for stage in ("first", "second")
                for what, tokens in (("batch", "4096"), ("micro_batch", "1024"))
            },
            "checkpoint.every_steps": str(CHECKPOINT_EVERY),
            "evaluation.enabled": "false",
        },
    )
    with pytest.raises(RuntimeError, match="died"):
        world(arguments, tmp_path, before, dies=True)
    world(arguments, tmp_path, after, dies=False)
    survived = DIES_IN_STEP // CHECKPOINT_EVERY * CHECKPOINT_EVERY
    surviving = spans(tmp_path, "first", range(1, survived + 1))
    surviving += spans(tmp_path, "second", range(survived + 1, 10**6))
    seen: Counter[tuple[int, int, int]] = Counter()
    for source, document, begin, length, epoch, *_ in surviving:
        if epoch == 0:
            seen.update((source, document, begin + offset) for offset in range(length))
    everything = {
        (0, document, offset)
        for document in range(dataset.num_documents)
        for offset in range(dataset.document_length(document))
    }
    assert set(seen) == everything
    assert set(seen.values()) == {1}
    assert any(span[4] == 1 for span in surviving), "the run must reach past the epoch's end"
