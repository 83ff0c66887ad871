"""Scores labelled tokens of generated documents, given the true tokens before them or decoded greedily."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import IGNORE, Dealer, PackedBatch, RankReader
from data.generated.source import GeneratedSource
from data.held_out import document_batches
from data.packing.positions import Placing
from model.at_step import AtStep
from parallel.mesh import Mesh
from train.evaluation.greedy import decode, places_in_stream
from train.evaluation.held_out import bucket_edges
from train.objective import to_device
from train.predictor import Predictor

_FORWARDS_BETWEEN_LINES = 100


class Counts:
    """Labelled tokens of documents of one length. by_place: (2, length), right ones and all. wrong: by document."""

    def __init__(self, length: int, documents: int) -> None:
        self.by_place = np.zeros((2, length))
        self.wrong = np.zeros(documents)

    def add(self, packed: PackedBatch, right_T: Tensor, row_length: int) -> None:
        """Adds the tokens with a target that this rank holds; right_T: bool (T,), whether it is predicted."""
        scored_T = packed.targets_T.numpy() != IGNORE
        right = right_T.cpu().numpy()[scored_T]
        rows, places = np.divmod(places_in_stream(packed)[scored_T], row_length)
        for into, weights in zip(self.by_place, (right, None), strict=True):
            into += np.bincount(places + 1, weights, minlength=len(into))
        documents = np.array([span.document for span in packed.spans], dtype=np.int64)
        self.wrong += np.bincount(documents[rows], ~right, minlength=len(self.wrong))

    def summed(self, mesh: Mesh) -> "Counts":
        """Returns the sums over all ranks. Collective."""
        own = np.concatenate([self.by_place.ravel(), self.wrong])
        total = mesh.sum_over_world(torch.from_numpy(own).to(mesh.device)).cpu().numpy()
        found = Counts(self.by_place.shape[1], len(self.wrong))
        found.by_place = total[: self.by_place.size].reshape(2, -1)
        found.wrong = total[self.by_place.size :]
        return found

    def shares(self, trained_length: int, bucket_tokens: int = 0) -> dict[str, Any]:
        """Returns tokens and accuracy: of all places, below and from the training length, and by buckets.

        bucket_tokens: places of a bucket; 0: buckets end at powers of two.
        """
        length = self.by_place.shape[1]
        edges = (
            [*range(0, length, bucket_tokens), length] if bucket_tokens else bucket_edges(length)
        )
        return {
            "tokens": int(self.by_place[1].sum()),
            "accuracy": self._share(0, length),
            "accuracy_below": self._share(0, trained_length),
            "accuracy_from": self._share(trained_length, length),
            "position_buckets": [
                {
                    "start": start,
                    "end": end,
                    "tokens": int(self.by_place[1, start:end].sum()),
                    "accuracy": self._share(start, end),
                }
                for start, end in itertools.pairwise(edges)
            ],
        }

    def _share(self, start: int, end: int) -> float | None:
        right, scored = self.by_place[:, start:end].sum(axis=1)
        return float(right / scored) if scored else None


@dataclass(frozen=True)
class Documents:
    """Held-out documents of one length, and how they are laid into streams, one a row.

    row_length: tokens of a row, padding included. micro_batch_tokens: tokens of a stream, if a row is not longer.
    """

    source: GeneratedSource
    length: int
    row_length: int
    micro_batch_tokens: int
    placing: Placing
    mesh: Mesh
    deal: Dealer | None

    def batches(self, numbers: Sequence[int]) -> tuple[PackedBatch, ...]:
        """Returns this rank's streams of these documents, equally many on every rank. Collective."""
        most = -(-len(numbers) // self.mesh.dp_size)
        reader = RankReader(
            [self.source], self.source.eos_id, self.mesh.dp_rank, self.mesh.dp_size, self.deal
        )
        return self.mesh.together(
            lambda: document_batches(
                numbers,
                self.source,
                reader,
                length=self.length,
                row_length=self.row_length,
                rows_each=max(1, min(self.micro_batch_tokens // self.row_length, most)),
                placing=self.placing,
            )
        )

    def labelled(self, number: int) -> np.ndarray:
        """Returns whether each token of a document is a target that counts, bool (length,)."""
        mask = self.source.label_mask(number, 0, self.length)
        found = np.ones(self.length, dtype=bool) if mask is None else mask.copy()
        found[0] = False
        return found


@dataclass(frozen=True)
class Scored:
    """Scores documents with the weights of a trainer."""

    trainer: Predictor
    documents: Documents
    at: AtStep

    def given_truth(self, numbers: Sequence[int]) -> Counts:
        """Returns the counts of these documents, every token predicted from the true ones before it. Collective."""

        def right_of(group: Sequence[PackedBatch], _: str) -> list[Tensor]:
            micro_batches = [to_device(packed, self.documents.mesh.device) for packed in group]
            found = self.trainer.predictions(micro_batches, self.at)
            return [one.ranks_T == 0 for one in found or ()]

        return self._counts(numbers, right_of)

    def greedy(self, wrong: np.ndarray, say: Callable[[str], None]) -> Counts:
        """Returns the counts of greedily decoded documents, those from number 0 on. Collective.

        wrong: bool, whether a document has an error given the truth; all others decode to the truth, without a forward.
        say: gets a line every hundred forwards.
        """
        forwards = itertools.count(1)

        def right_of(group: Sequence[PackedBatch], which: str) -> list[Tensor]:
            def after_forward() -> None:
                if (done := next(forwards)) % _FORWARDS_BETWEEN_LINES == 0:
                    length = self.documents.length
                    say(f"greedy decoding at length {length:,}: {done:,} forwards, at {which}")

            found = decode(self.trainer, self.documents.mesh, group, self.at, after_forward)
            return [
                ids_T == packed.targets_T.to(ids_T.device)
                for ids_T, packed in zip(found or (), group, strict=False)
            ]

        counts = self._counts(np.flatnonzero(wrong).tolist(), right_of)
        for number in np.flatnonzero(~wrong).tolist():
            counts.by_place += self.documents.labelled(number)
        return counts

    def _counts(
        self,
        numbers: Sequence[int],
        right_of: Callable[[Sequence[PackedBatch], str], Iterable[Tensor]],
    ) -> Counts:
        """Returns the counts of documents. right_of(streams, which of them): what this rank's tokens score."""
        documents, at_once = self.documents, self.trainer.at_once
        counts = Counts(documents.length, 1 + max(numbers, default=-1))
        batches = documents.batches(numbers) if numbers else ()
        # A few at a time, so that memory does not grow with the number of documents.
        for first in range(0, len(batches), at_once):
            group = batches[first : first + at_once]
            which = f"stream {first + 1} of {len(batches)}"
            for packed, right_T in zip(group, right_of(group, which), strict=False):
                counts.add(packed, right_T, documents.row_length)
        return counts.summed(documents.mesh)
