"""Held-out loss by position in the document, next to unigram and bigram yardsticks.

Every scored segment starts at the first token of a document (or of a piece of it), so a bucket of places in the
segment shows how well the model uses that much context. Attention stays within a segment, and positions restart at
it, as in the stage; the skips of PoSE are left out. The yardsticks are scored on the same target tokens.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import IGNORE, Dealer, PackedBatch, RankReader, Windows
from data.held_out import EvaluationSet, batches_of_rows
from data.held_out_rows import evaluation_rows
from data.ngram import NgramYardstick, merge, shares_of
from data.packing.positions import Placing
from data.sources import Corpus, Source, yardstick
from model.at_step import AtStep
from parallel.mesh import Mesh
from train.configuration.schema import RunConfig
from train.objective import to_device
from train.predictor import Predictor
from train.records.console import number
from train.records.evaluation_rows import HELD_OUT
from train.schedule.stages import Point, Stage

NAME = HELD_OUT

ROWS = ("loss", "unigram_loss", "bigram_loss", "tokens")
_FIRST_BUCKET = 32
# Places at the end of a segment whose loss is reported for itself.
_LAST_TOKENS = 500
# Columns of the table.
_OF_EVALUATION = ("step", "stage", "tokens_seen", "sequence_length")
_OF_BUCKET = ("start", "end", "tokens", "loss", "unigram_loss", "bigram_loss")


@dataclass(frozen=True)
class HeldOut:
    """This rank's share of the held-out streams of one stage, and the yardstick that also scores them.

    Every rank has the same number of streams, so that collectives inside a forward match (ZeRO-3).
    """

    sequence_length: int
    streams: EvaluationSet
    yardstick: NgramYardstick


def bucket_edges(sequence_length: int) -> list[int]:
    """Returns 0, the powers of two from 32 up, and the length: [0, 32, 64, ..., sequence_length]."""
    edges = [0]
    edge = _FIRST_BUCKET
    while edge < sequence_length:
        edges.append(edge)
        edge *= 2
    return [*edges, sequence_length]


def evaluate(trainer: Predictor, mesh: Mesh, held_out: HeldOut, at: AtStep) -> dict[str, Any]:
    """Returns the losses of the whole held-out set as one JSON object. Collective."""
    length = held_out.sequence_length
    sums = np.zeros((len(ROWS), length))  # by position
    streams = list(held_out.streams)
    # A few at a time, so that memory does not grow with the size of the set.
    for first in range(0, len(streams), trainer.at_once):
        group = streams[first : first + trainer.at_once]
        micro_batches = [to_device(packed, mesh.device) for packed in group]
        losses = trainer.token_losses(micro_batches, at) or ()
        for packed, losses_T in zip(group, losses, strict=False):
            _add(sums, packed, losses_T, held_out.yardstick)
    total = mesh.sum_over_world(torch.from_numpy(sums).to(mesh.device)).cpu().numpy()
    return _summary(total, held_out)


def _add(
    sums: np.ndarray, packed: PackedBatch, losses_T: Tensor, yardstick: NgramYardstick
) -> None:
    """Adds the losses and tokens of one stream to sums (len(ROWS), length), by place in the segment."""
    tokens_T, targets_T = packed.tokens_T.numpy(), packed.targets_T.numpy()
    ngram = yardstick.score(tokens_T, targets_T)
    columns = (
        losses_T.double().cpu().numpy(),
        ngram.unigram,
        ngram.bigram,
        np.ones(len(targets_T)),
    )
    valid_T = targets_T != IGNORE
    places = packed.place_in_segment_T()[valid_T]
    for row, values_T in enumerate(columns):
        sums[row] += np.bincount(places, values_T[valid_T], minlength=sums.shape[1])


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
        "last_500_loss": means(length - _LAST_TOKENS, length)["loss"]
        if length > _LAST_TOKENS
        else None,
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


class StageCounts:
    """The yardstick of a stage: n-gram counts of training tokens in its mix, for all held-out sets."""

    def __init__(self, config: RunConfig, mesh: Mesh, corpus: Corpus) -> None:
        self._config, self._mesh, self._corpus = config, mesh, corpus
        self._made: tuple[tuple[float, ...], NgramYardstick] | None = None

    def of(self, stage: Stage) -> NgramYardstick:
        """Counts, unless the last stage had the same mix. Collective.

        Raises:
            ValueError, OSError: on every rank: one of them could not read a file.
        """
        weights = stage.shape.weights
        if self._made is None or self._made[0] != weights:
            self._made = None  # free the memory of the stage before first
            budgets = shares_of(self._config.evaluation.yardstick_tokens, weights)
            pairs = zip(self._corpus.sources, budgets, strict=True)
            self._made = weights, merge([self._count(one, most) for one, most in pairs if most])
        return self._made[1]

    def _count(self, source: Source, most: int) -> NgramYardstick:
        """The main rank counts; the other ranks read the cache of its counts of files, and get those of generated
        documents from it. Collective."""
        mesh, vocab_size = self._mesh, self._config.model.vocab_size

        def counted() -> NgramYardstick:
            return yardstick(source, vocab_size, max_tokens=most)

        own = mesh.together(lambda: counted() if mesh.is_main else None)
        if source.is_generated:
            made: NgramYardstick = mesh.broadcast_object(own)
            return made
        return mesh.together(lambda: own or counted())


class HeldOutLoss:
    """The task. Builds streams and yardstick at the first evaluation of a stage; keeps them until the next
    stage, or until windows change."""

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        deal: Dealer | None,
        held_out: Source,
        counts: StageCounts,
    ) -> None:
        self._config, self._mesh, self._deal = config, mesh, deal
        self._held_out, self._counts = held_out, counts
        self.every_steps = config.evaluation.every_steps
        self._made: tuple[tuple[str, Windows], HeldOut] | None = None
        # The last row, until `latest` takes it.
        self._latest: dict[str, Any] | None = None

    def of_another(self, held_out: Source) -> "HeldOutLoss":
        """Returns the task for another held-out set of the same run, which shares the yardstick."""
        return HeldOutLoss(self._config, self._mesh, self._deal, held_out, self._counts)

    def evaluate(self, trainer: Predictor, point: Point) -> dict[str, Any]:
        """Returns the losses of the whole held-out set. Collective.

        Raises:
            ValueError, OSError: on every rank: one of them could not read a file.
        """
        length = point.stage.shape.sequence_length
        at = point.at_length(length)
        if length > point.lengths[-1]:  # of an evaluation that is no part of training
            at = replace(point.at, asked_length=length)
        self._latest = evaluate(trainer, self._mesh, self._of(point), at)
        return self._latest

    def latest(self, trainer: Predictor, point: Point) -> dict[str, Any]:
        """Returns the row of the evaluation just made, or evaluates. Collective."""
        found, self._latest = self._latest or self.evaluate(trainer, point), None
        return found

    @property
    def source_name(self) -> str:
        """Name of the source of the held-out documents."""
        return self._held_out.name

    @staticmethod
    def sentence(row: Mapping[str, Any]) -> str:
        """Returns loss, yardsticks, and the loss of early and late positions, as a sentence."""
        return (
            f"loss {number(row['loss'])} over {row['tokens']:,} tokens at length {row['sequence_length']:,} (bigram "
            f"{number(row['bigram_loss'])}, unigram {number(row['unigram_loss'])}); first quarter "
            f"{number(row['first_quarter_loss'])}, last quarter {number(row['last_quarter_loss'])}"
        )

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """Returns every number of the row except its step, and the loss of each bucket of positions.

        Those of another task than `NAME` begin with its name and a slash.
        """
        found = {k: v for k, v in row.items() if k != "step" and isinstance(v, int | float)}
        for bucket in row["position_buckets"]:
            if bucket["loss"] is not None:
                found[f"loss_from_position_{bucket['start']}"] = bucket["loss"]
        task = row.get("task", NAME)
        return found if task == NAME else {f"{task}/{name}": v for name, v in found.items()}

    @staticmethod
    def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns, for every evaluation, a line for the whole set and one for each bucket of positions."""
        return [
            {key: row[key] for key in _OF_EVALUATION} | {key: part.get(key) for key in _OF_BUCKET}
            for row in rows
            for part in (
                {**row, "start": 0, "end": row["sequence_length"]},
                *row["position_buckets"],
            )
        ]

    def _of(self, point: Point) -> HeldOut:
        # Only shares of streams depend on windows.
        key = (point.stage.name, point.windows if self._deal is not None else ())
        if self._made is None or self._made[0] != key:
            self._made = None  # free the memory of what was made before first
            self._made = key, self._make(point.stage, point.windows)
        return self._made[1]

    def _make(self, stage: Stage, windows: Windows) -> HeldOut:
        mesh, source, length = self._mesh, self._held_out, stage.shape.sequence_length
        most = self._config.evaluation.max_tokens
        # The main rank looks for the rows; every rank reads the tokens of its own.
        chosen = mesh.broadcast_object(
            mesh.together(lambda: evaluation_rows(source, length, most) if mesh.is_main else None)
        )
        streams = mesh.together(
            lambda: batches_of_rows(
                chosen,
                RankReader([source], source.eos_id, mesh.dp_rank, mesh.dp_size, self._deal),
                sequence_length=length,
                micro_batch_tokens=stage.shape.micro_batch_tokens,
                placing=Placing(stage.shape.rules, windows=windows),
            )
        )
        return HeldOut(length, streams, self._counts.of(stage))


def make_task(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> HeldOutLoss | None:
    """Returns the task; None without held-out documents."""
    if corpus.heldout is None:
        return None
    return HeldOutLoss(config, mesh, deal, corpus.heldout, StageCounts(config, mesh, corpus))
