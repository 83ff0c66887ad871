"""LongPPL on held-out documents: perplexity on the tokens for which the model uses a long context.

Documents of at least the asked length are scored, the first `length` tokens of each, then the next ones; if none is so
long, whole shorter ones. Two forms of the loss with a short context of K tokens (`key_tokens.py` has the rest):

    official   every piece of K + step tokens of a document is a document of its own; its last `step` tokens are scored
    windowed   the same streams once more, with a window of K keys in every layer in which a token would see more

The windowed form costs one further forward; several windowed layers together reach further back than K tokens.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from data.batch import Dealer, PackedBatch, RankReader, Windows
from data.held_out import piece_batches
from data.held_out_rows import evaluation_rows
from data.packing.positions import Placing
from data.packing.spans import Span
from data.sources import Corpus, Source
from model.at_step import AtStep
from parallel.mesh import Mesh
from parallel.sequence.dealing import stream_multiple
from train.configuration.long_context_settings import (
    LongPerplexityForm,
    OfficialLongPerplexity,
)
from train.configuration.schema import RunConfig
from train.evaluation.key_tokens import KeyRule, Losses, pieces_of, summary
from train.objective import MicroBatch, to_device
from train.predictor import Predictor
from train.records.console import number
from train.records.evaluation_rows import LONG_PERPLEXITY
from train.schedule.stages import Point

NAME = LONG_PERPLEXITY
# Columns of the table.
_OF_EVALUATION = ("step", "stage", "tokens_seen")
_NUMBERS = ("long_perplexity", "key_tokens", "candidate_tokens", "tokens", "perplexity")
_COLUMNS = (*_OF_EVALUATION, "form", "length", "context_tokens", "documents", *_NUMBERS)


@dataclass(frozen=True)
class Streams:
    """This rank's streams of pieces of documents, one a row; equally many on every rank."""

    row_length: int
    batches: tuple[PackedBatch, ...]


@dataclass(frozen=True)
class Made:
    """The documents of one stage. spans: of all ranks. short: the pieces of the official form; none without it."""

    length: int
    spans: tuple[Span, ...]
    long: Streams
    short: Streams
    longest_piece: int = 0


class LongPerplexity:
    """The task. Builds its streams at the first evaluation of a stage; keeps them until the next stage, or until
    windows change."""

    def __init__(
        self,
        wanted: LongPerplexityForm,
        mesh: Mesh,
        deal: Dealer | None,
        source: Source,
        every_steps: int = 0,
    ) -> None:
        self.every_steps = every_steps
        self._wanted = wanted
        self._mesh, self._deal, self._source = mesh, deal, source
        self._made: tuple[tuple[str, Windows], Made] | None = None

    def losses(self, predictor: Predictor, point: Point) -> Losses:
        """Returns the losses of all scored tokens with both contexts, those of all ranks. Collective.

        Raises:
            ValueError, OSError: on every rank: one of them could not read a file.
        """
        made = self._of(point)
        found = Losses(made.spans)
        self._score(predictor, replace(point.at, asked_length=made.length), made, found)
        values = torch.from_numpy(found.values).to(self._mesh.device)
        found.values = self._mesh.sum_over_world(values).cpu().numpy()
        return found

    def evaluate(self, trainer: Predictor, point: Point) -> dict[str, Any]:
        """Returns LongPPL and its numbers of tokens. Collective.

        Raises:
            ValueError, OSError: as `losses`.
        """
        losses, wanted, made = self.losses(trainer, point), self._wanted, self._of(point)
        rule = KeyRule(wanted.context_tokens, wanted.alpha, wanted.beta)
        return {
            "form": wanted.form,
            "length": made.length,
            "context_tokens": wanted.context_tokens,
            "documents": len(made.spans),
            **summary(losses.by_span(rule)),
        }

    @staticmethod
    def sentence(row: Mapping[str, Any]) -> str:
        """Returns LongPPL, its key tokens, and the ordinary perplexity, as a sentence."""
        short = f"a context of {row['context_tokens']:,} tokens ({row['form']} form)"
        if not row["key_tokens"]:
            found = f"no key token among {row['candidate_tokens']:,} beyond {short}"
        else:
            found = (
                f"{number(row['long_perplexity'])} on {row['key_tokens']:,} key tokens of "
                f"{row['candidate_tokens']:,} beyond {short}"
            )
        return (
            f"{found}; perplexity {number(row['perplexity'])} over {row['tokens']:,} tokens at length "
            f"{row['length']:,}"
        )

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """Returns LongPPL, the ordinary perplexity and the numbers of tokens."""
        return {f"{NAME}/{name}": row[name] for name in _NUMBERS if row[name] is not None}

    @staticmethod
    def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns a line for every evaluation."""
        return [{key: row[key] for key in _COLUMNS} for row in rows]

    def _score(self, predictor: Predictor, at: AtStep, made: Made, losses: Losses) -> None:
        """Adds the losses that this rank counts. Collective."""
        context, rows = self._wanted.context_tokens, made.long.row_length
        narrow = None
        if self._wanted.form == "windowed" and made.length > context:
            narrow = replace(at, keys_at_most=context)
        for group, micro_batches in self._groups(predictor, made.long):
            for packed, losses_T in _scored(predictor, group, micro_batches, at):
                losses.add_long(packed, rows, losses_T)
            if narrow is not None:
                for packed, losses_T in _scored(predictor, group, micro_batches, narrow):
                    losses.add_short(packed, rows, losses_T, context)
        # A method whose rotation depends on the length is told that of the longest piece.
        at = replace(at, asked_length=made.longest_piece)
        for group, micro_batches in self._groups(predictor, made.short):
            for packed, losses_T in _scored(predictor, group, micro_batches, at):
                losses.add_short(packed, made.short.row_length, losses_T, context)

    def _groups(
        self, predictor: Predictor, streams: Streams
    ) -> Iterator[tuple[Sequence[PackedBatch], list[MicroBatch]]]:
        """Yields as many streams at a time as the predictor takes, so that memory does not grow with their number."""
        for first in range(0, len(streams.batches), predictor.at_once):
            group = streams.batches[first : first + predictor.at_once]
            yield group, [to_device(packed, self._mesh.device) for packed in group]

    def _of(self, point: Point) -> Made:
        # Only shares of streams depend on windows.
        key = (point.stage.name, point.windows if self._deal is not None else ())
        if self._made is None or self._made[0] != key:
            self._made = None  # free the memory of what was made before first
            length = self._wanted.length or point.stage.shape.sequence_length
            # The main rank looks for the documents; every rank reads the tokens of its own.
            spans = self._mesh.broadcast_object(
                self._mesh.together(lambda: self._spans(length) if self._mesh.is_main else None)
            )
            self._made = key, self._mesh.together(lambda: self._make(point, length, spans))
        return self._made[1]

    def _spans(self, length: int) -> list[Span]:
        """Returns the pieces of held-out documents that are scored."""
        rows, _ = evaluation_rows(self._source, length, self._wanted.max_tokens)
        spans = [span for row in rows for span in row]
        if not spans:
            raise ValueError("heldout: holds no token; prepare one that does")
        return [span for span in spans if span.length > self._wanted.context_tokens] or spans

    def _make(self, point: Point, length: int, spans: Sequence[Span]) -> Made:
        wanted = self._wanted
        pieces: list[Span] = []
        if isinstance(wanted, OfficialLongPerplexity):
            pieces = pieces_of(spans, wanted.context_tokens, wanted.step_tokens)
        return Made(
            length,
            tuple(spans),
            self._streams(spans, point),
            self._streams(pieces, point),
            max((piece.length for piece in pieces), default=0),
        )

    def _streams(self, spans: Sequence[Span], point: Point) -> Streams:
        """Returns this rank's streams of these pieces."""
        if not spans:
            return Streams(0, ())
        stage, mesh, source = point.stage, self._mesh, self._source
        layout, size = stage.parallel.sequence_layout, mesh.sequence.size
        multiple = mesh.tensor.size * stream_multiple(layout, size)
        row_length = -(-max(span.length for span in spans) // multiple) * multiple
        most = -(-len(spans) // mesh.dp_size)
        batches = piece_batches(
            [span.counted(source) for span in spans],
            RankReader([source], source.eos_id, mesh.dp_rank, mesh.dp_size, self._deal),
            row_length=row_length,
            rows_each=max(1, min(stage.shape.micro_batch_tokens // row_length, most)),
            placing=Placing(stage.shape.rules, windows=point.windows),
        )
        return Streams(row_length, batches)


def _scored(
    predictor: Predictor,
    group: Sequence[PackedBatch],
    micro_batches: Sequence[MicroBatch],
    at: AtStep,
) -> Iterable[tuple[PackedBatch, np.ndarray]]:
    """Returns each stream with the losses of its tokens, float64 (T,), where this rank counts them. Collective."""
    found = predictor.token_losses(micro_batches, at) or ()
    return [
        (packed, losses_T.double().cpu().numpy())
        for packed, losses_T in zip(group, found, strict=False)
    ]


def make_task(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> LongPerplexity | None:
    """Returns the task; None if it is not asked for, or without held-out documents."""
    wanted = config.evaluation.long_perplexity
    if wanted is None or corpus.heldout is None:
        return None
    return LongPerplexity(wanted, mesh, deal, corpus.heldout, config.evaluation.every_steps)
