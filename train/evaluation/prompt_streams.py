"""Lays prompts of one length into streams and reads their scores out of the predictions.

    stream   [ prompt 3 | prompt 0 | prompt 7 | padding ]      kept apart by the mask; positions restart at each
    scored             --         --         --                 the tokens before those of the answers

Every rank has equally many streams; those without a prompt are padding, so that collectives match.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.batch import IGNORE, Dealer, PackedBatch, RankReader
from data.packing.positions import Placing
from data.packing.spans import Span
from data.prompts.fill import Prompt
from model.at_step import AtStep
from parallel.mesh import Mesh
from train.evaluation.greedy import places_in_stream
from train.objective import to_device
from train.predictor import Predictor


@dataclass(frozen=True)
class PromptReader:
    """Prompts as a source of documents; only the tokens of the answers have labels."""

    prompts: Sequence[Prompt]

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Returns tokens [start, start + length) of prompt and answer."""
        return self.prompts[document].ids[start : start + length]

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray:
        """See data/labels.py."""
        return np.arange(start, start + length) >= self.prompts[document].answer

    def count_labels(self, document: int, start: int, length: int) -> int:
        """See data/labels.py."""
        return max(0, start + length - max(start + 1, self.prompts[document].answer))


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

    def scores(
        self, trainer: Predictor, prompts: Sequence[Prompt], at: AtStep
    ) -> list[PromptScore]:
        """Returns the scores of the prompts, equal on all ranks. Collective. at: of all of them."""
        most = max(len(one.ids) - one.answer for one in prompts)
        # By prompt and token of the answer: rank and loss.
        found = np.zeros((2, len(prompts), most))
        streams = self._streams(prompts)
        # A few at a time, so that memory does not grow with the number of prompts.
        for first in range(0, len(streams), trainer.at_once):
            group = streams[first : first + trainer.at_once]
            micro_batches = [to_device(packed, self.mesh.device) for packed in group]
            for packed, one in zip(
                group, trainer.predictions(micro_batches, at) or (), strict=False
            ):
                scored_T = packed.targets_T.numpy() != IGNORE
                where = _answer_places(packed, scored_T, prompts)
                found[0][where] = one.ranks_T.cpu().numpy()[scored_T]
                found[1][where] = one.losses_T.double().cpu().numpy()[scored_T]
        total = self.mesh.sum_over_world(torch.from_numpy(found).to(self.mesh.device)).cpu().numpy()
        lengths = [len(one.ids) - one.answer for one in prompts]
        return [
            PromptScore(total[0, index, :length].astype(np.int64), total[1, index, :length])
            for index, length in enumerate(lengths)
        ]

    def _streams(self, prompts: Sequence[Prompt]) -> tuple[PackedBatch, ...]:
        """Returns this rank's streams, all of the same size."""
        source = PromptReader(prompts)
        longest = max(len(one.ids) for one in prompts)
        size = max(self.micro_batch_tokens, longest)
        # With few prompts the streams are shorter, so that every data rank has some.
        share = -(-sum(len(one.ids) for one in prompts) // self.mesh.dp_size)
        size = min(size, max(longest, share))
        size = -(-size // self.multiple) * self.multiple
        rows = list[list[Span]]()
        left = 0
        for number, prompt in enumerate(prompts):
            span = Span(0, number, 0, len(prompt.ids), 0).counted(source)
            if span.length > left:
                rows.append([])
                left = size
            rows[-1].append(span)
            left -= span.length
        rows += [[] for _ in range(-len(rows) % self.mesh.dp_size)]
        reader = RankReader([source], self.pad_id, self.mesh.dp_rank, self.mesh.dp_size, self.deal)
        return reader.read(rows, size, 1, Placing(windows=self.windows))


def _answer_places(
    packed: PackedBatch, scored_T: np.ndarray, prompts: Sequence[Prompt]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for the tokens held here with a target, the prompt and the number of the target in its answer."""
    places = places_in_stream(packed)[scored_T]
    starts = np.array(packed.starts)
    segments = np.searchsorted(starts, places, side="right") - 1
    numbers = np.array([span.document for span in packed.spans], dtype=np.int64)[segments]
    answers = np.array([one.answer for one in prompts])
    return numbers, places + 1 - starts[segments] - answers[numbers]
