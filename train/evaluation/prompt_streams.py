"""Lays prompts of one length into streams and reads their scores out of the predictions.

    stream   [ prompt 3 | prompt 0 | prompt 7 | padding ]      kept apart by the mask; positions restart at each
    scored             --         --         --                 the tokens before those of the answers

Every rank has equally many streams; those without a prompt are padding, so that collectives match. A rank reads a few
streams at a time, so it never holds all prompts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.batch import IGNORE, Dealer, PackedBatch, RankReader
from data.packing.positions import Placing
from data.packing.spans import Span
from model.at_step import AtStep
from parallel.mesh import Mesh
from train.evaluation.greedy import places_in_stream
from train.evaluation.prompt_sets import PromptSet
from train.objective import to_device
from train.predictor import Predictor


@dataclass(frozen=True)
class PromptScore:
    """What one forward says about the answer of a prompt.

    ranks: int64, of each answer token, see `Predictions`. losses: float64, of each answer token, in nats.
    """

    ranks: np.ndarray
    losses: np.ndarray

    @property
    def hit(self) -> bool:
        """Whether every token is the most probable one after the true tokens before it."""
        return not self.ranks.any()

    @property
    def loss(self) -> float:
        """Mean loss of the tokens."""
        return float(self.losses.mean())

    @property
    def first_wrong(self) -> int:
        """Number of tokens before the first one that is not the most probable."""
        wrong = np.flatnonzero(self.ranks)
        return int(wrong[0]) if len(wrong) else len(self.ranks)


@dataclass(frozen=True)
class Scorer:
    """Scores prompts under a layout.

    deal: assigns a stream to sequence ranks. micro_batch_tokens: of a stream, if no prompt is longer. multiple: the
    tokens of a stream are a multiple of it.
    """

    mesh: Mesh
    deal: Dealer | None
    micro_batch_tokens: int
    multiple: int
    pad_id: int
    windows: tuple[tuple[str, int], ...] = ()

    def scores(self, trainer: Predictor, prompts: PromptSet, at: AtStep) -> list[PromptScore]:
        """Returns the scores of the prompts, equal on all ranks. Collective. at: of all of them.

        Raises:
            ValueError, OSError: on every rank: one of them could not make its prompts.
        """
        lengths = [one.tokens - one.answer for one in prompts.outlines]
        # By prompt and token of the answer: rank and loss.
        found = np.zeros((2, len(lengths), max(lengths)))
        for group in self._groups(prompts, trainer.at_once):
            micro_batches = [to_device(packed, self.mesh.device) for packed in group]
            for packed, one in zip(
                group, trainer.predictions(micro_batches, at) or (), strict=False
            ):
                scored_T = packed.targets_T.numpy() != IGNORE
                where = _answer_places(packed, scored_T, prompts)
                found[0][where] = one.ranks_T.cpu().numpy()[scored_T]
                found[1][where] = one.losses_T.double().cpu().numpy()[scored_T]
        total = self.mesh.sum_over_world(torch.from_numpy(found).to(self.mesh.device)).cpu().numpy()
        return [
            PromptScore(total[0, index, :length].astype(np.int64), total[1, index, :length])
            for index, length in enumerate(lengths)
        ]

    def _groups(self, prompts: PromptSet, at_once: int) -> Iterator[tuple[PackedBatch, ...]]:
        """Yields this rank's streams, all of the same size, `at_once` at a time. Collective."""
        size = self._size([one.tokens for one in prompts.outlines])
        mesh, placing = self.mesh, Placing(windows=self.windows)
        reader = RankReader([prompts], self.pad_id, mesh.dp_rank, mesh.dp_size, self.deal)
        rows = _rows(prompts, size)
        rows += [[] for _ in range(-len(rows) % mesh.dp_size)]
        each = at_once * mesh.dp_size
        for first in range(0, len(rows), each):
            some = rows[first : first + each]
            yield mesh.together(lambda some=some: reader.read(some, size, 1, placing))  # type: ignore[misc]

    def _size(self, lengths: Sequence[int]) -> int:
        """Returns the tokens of a stream for prompts of these lengths."""
        longest = max(lengths)
        # With few prompts the streams are shorter, so that every data rank has some.
        share = max(longest, -(-sum(lengths) // self.mesh.dp_size))
        size = min(max(self.micro_batch_tokens, longest), share)
        return -(-size // self.multiple) * self.multiple


def _rows(prompts: PromptSet, size: int) -> list[list[Span]]:
    """Returns the prompts in order, in rows of up to `size` tokens."""
    rows, left = list[list[Span]](), 0
    for number, one in enumerate(prompts.outlines):
        span = Span(0, number, 0, one.tokens, 0).counted(prompts)
        if span.length > left:
            rows.append([])
            left = size
        rows[-1].append(span)
        left -= span.length
    return rows


def _answer_places(
    packed: PackedBatch, scored_T: np.ndarray, prompts: PromptSet
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for the tokens held here with a target, the prompt and the number of the target in its answer."""
    places = places_in_stream(packed)[scored_T]
    starts = np.array(packed.starts)
    segments = np.searchsorted(starts, places, side="right") - 1
    numbers = np.array([span.document for span in packed.spans], dtype=np.int64)[segments]
    answers = np.array([one.answer for one in prompts.outlines])
    return numbers, places + 1 - starts[segments] - answers[numbers]
