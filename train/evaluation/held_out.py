"""Held-out loss by position in the document, next to unigram and bigram yardsticks.

Every scored segment starts at its document's (or piece's) first token, so a bucket of positions says how
well the model uses that much context. The yardsticks are scored on exactly the same target tokens.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.batch import IGNORE, Dealer
from data.held_out import EvaluationSet, evaluation_batches
from data.ngram import NgramYardstick, cached_fit, merge
from data.sources import Corpus
from parallel.mesh import Mesh
from train.configuration.schema import RunConfig
from train.objective import to_device
from train.records.console import number
from train.records.evaluation_rows import HELD_OUT
from train.schedule.stages import Stage
from train.trainer import Trainer

NAME = HELD_OUT

ROWS = ("loss", "unigram_loss", "bigram_loss", "tokens")
_FIRST_BUCKET = 32


@dataclass(frozen=True)
class HeldOut:
    """This rank's share of the held-out streams of one stage, and what else scores them.

    Every rank has the same number of streams, so that collectives inside a forward match (ZeRO-3).
    """

    sequence_length: int
    streams: EvaluationSet
    yardstick: NgramYardstick


def bucket_edges(sequence_length: int) -> list[int]:
    """Powers of two from 32 up, and the length itself: [0, 32, 64, ..., sequence_length]."""
    edges = [0]
    edge = _FIRST_BUCKET
    while edge < sequence_length:
        edges.append(edge)
        edge *= 2
    return [*edges, sequence_length]


def evaluate(trainer: Trainer, mesh: Mesh, held_out: HeldOut, rope_base: float) -> dict[str, Any]:
    """Losses of the whole held-out set, as one JSON object. Collective."""
    length = held_out.sequence_length
    sums = np.zeros((len(ROWS), length))  # by position
    for packed in held_out.streams:
        # One at a time: what is kept is one stream's losses, however large the set is.
        micro_batch = to_device(packed, mesh.device)
        losses = trainer.token_losses([micro_batch], rope_base)
        if losses is None:
            continue
        tokens_T, targets_T = packed.tokens_T.numpy(), packed.targets_T.numpy()
        ngram = held_out.yardstick.score(tokens_T, targets_T)
        columns = (
            losses[0].double().cpu().numpy(),
            ngram.unigram,
            ngram.bigram,
            np.ones(len(targets_T)),
        )
        positions_T = micro_batch.layout.positions_T.cpu().numpy()
        valid_T = targets_T != IGNORE
        for row, losses_T in enumerate(columns):
            sums[row] += np.bincount(positions_T[valid_T], losses_T[valid_T], minlength=length)
    total = mesh.sum_over_world(torch.from_numpy(sums).to(mesh.device)).cpu().numpy()
    return _summary(total, held_out)


def _summary(total: np.ndarray, held_out: HeldOut) -> dict[str, Any]:
    length, counts = held_out.sequence_length, total[-1]

    def means(start: int, end: int) -> dict[str, float | None]:
        number = counts[start:end].sum()
        return {
            name: float(total[row, start:end].sum() / number) if number else None
            for row, name in enumerate(ROWS[:-1])
        }

    edges = bucket_edges(length)
    first, last = means(0, length // 4), means(length - length // 4, length)
    return {
        "sequence_length": length,
        **means(0, length),
        "tokens": int(counts.sum()),
        "rows": held_out.streams.num_rows,
        "first_quarter_loss": first["loss"],
        "last_quarter_loss": last["loss"],
        "first_quarter_bigram_loss": first["bigram_loss"],
        "last_quarter_bigram_loss": last["bigram_loss"],
        "position_buckets": [
            {
                "start": start,
                "end": end,
                "tokens": int(counts[start:end].sum()),
                **means(start, end),
            }
            for start, end in itertools.pairwise(edges)
        ],
    }


class HeldOutLoss:
    """The task: streams and yardstick of a stage are made at its first evaluation and kept until the next stage."""

    def __init__(self, config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None) -> None:
        self._config, self._mesh, self._corpus, self._deal = config, mesh, corpus, deal
        self._made: tuple[str, HeldOut] | None = None

    def evaluate(self, trainer: Trainer, stage: Stage, rope_base: float) -> dict[str, Any]:
        """Losses of the whole held-out set. Collective.

        Raises:
            ValueError, OSError: on every rank, what one could not read.
        """
        return evaluate(trainer, self._mesh, self._of(stage), rope_base)

    @staticmethod
    def sentence(row: Mapping[str, Any]) -> str:
        """Loss, yardsticks, and the loss of early and late positions."""
        return (
            f"loss {number(row['loss'])} over {row['tokens']:,} tokens at length {row['sequence_length']:,} (bigram "
            f"{number(row['bigram_loss'])}, unigram {number(row['unigram_loss'])}); first quarter "
            f"{number(row['first_quarter_loss'])}, last quarter {number(row['last_quarter_loss'])}"
        )

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """Every number of the row but its step, and the loss of each bucket of positions."""
        found = {k: v for k, v in row.items() if k != "step" and isinstance(v, int | float)}
        for bucket in row["position_buckets"]:
            if bucket["loss"] is not None:
                found[f"loss_from_position_{bucket['start']}"] = bucket["loss"]
        return found

    def _of(self, stage: Stage) -> HeldOut:
        if self._made is None or self._made[0] != stage.name:
            self._made = None  # the last stage's memory is free before this one's is taken
            self._made = stage.name, self._make(stage)
        return self._made[1]

    def _make(self, stage: Stage) -> HeldOut:
        mesh, source = self._mesh, self._corpus.heldout
        assert source is not None, "make_task looked"
        streams = mesh.together(
            lambda: evaluation_batches(
                source,
                sequence_length=stage.shape.sequence_length,
                micro_batch_tokens=stage.shape.micro_batch_tokens,
                max_tokens=self._config.evaluation.max_tokens,
                dp_rank=mesh.dp_rank,
                dp_size=mesh.dp_size,
                deal=self._deal,
            )
        )
        # The main rank counts, the others find its counts.
        mesh.together(lambda: self._yardstick() if mesh.is_main else None)
        return HeldOut(stage.shape.sequence_length, streams, mesh.together(self._yardstick))

    def _yardstick(self) -> NgramYardstick:
        config, sources = self._config, self._corpus.sources
        budget = config.evaluation.yardstick_tokens // len(sources)
        return merge(
            [
                cached_fit(
                    source.dataset,
                    config.model.vocab_size,
                    max_tokens=budget,
                    sha256=source.sha256,
                )
                for source in sources
            ]
        )


def make_task(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> HeldOutLoss | None:
    """The task where there are held-out files."""
    return HeldOutLoss(config, mesh, corpus, deal) if corpus.heldout is not None else None
