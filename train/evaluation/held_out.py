"""Held-out loss by position in the document, next to unigram and bigram yardsticks.

Every scored segment starts at its document's (or piece's) first token, so a bucket of positions says how
well the model uses that much context. The yardsticks are scored on exactly the same target tokens.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.batch import IGNORE
from data.held_out import EvaluationSet
from data.ngram import NgramYardstick
from parallel.mesh import Mesh
from train.objective import to_device
from train.trainer import Trainer

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
    for batch in held_out.streams:
        # One at a time: what is kept is one stream's losses, however large the set is.
        losses = trainer.token_losses([to_device(batch, mesh.device)], rope_base)
        if losses is None:
            continue
        tokens_T, targets_T = batch.tokens_T.numpy(), batch.targets_T.numpy()
        ngram = held_out.yardstick.score(tokens_T, targets_T)
        columns = (
            losses[0].double().cpu().numpy(),
            ngram.unigram,
            ngram.bigram,
            np.ones(len(targets_T)),
        )
        positions_T = np.concatenate([np.arange(n) for n in batch.lengths])
        positions_T = np.concatenate([positions_T[r.start : r.stop] for r in batch.ranges])
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
