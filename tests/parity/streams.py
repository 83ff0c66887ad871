"""Hostile packed streams for the parity tests, and each rank's part of them.

The streams are read by `data.batch.assemble` from sources of which some say which tokens have a label: a few in every
document, those of one rank's share alone, all, or none.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from data.batch import IGNORE, Dealer, PackedBatch, Windows, assemble
from data.labels import EveryTarget
from data.packing.positions import Placing
from data.packing.spans import Span
from model.at_step import AtStep
from model.config import ModelConfig
from parallel.config import ParallelConfig
from parallel.mesh import Mesh
from tests.parity.layout_cases import RULES, TOKENS, Case
from train.build_trainer import dealer

BASE, Z_LOSS, SEED = 500.0, 1e-3, 11
# Sequence lengths trained at: those of a stage before, and of this one.
LENGTHS = (TOKENS // 2, TOKENS)
# Segment lengths of the streams, in turn; the first stream ends with 3 tokens of padding.
STREAMS = (
    (1, 70, 1, 1, 20),
    (TOKENS,),
    (5, 1, 2, 8, 1, 1, 30, 40, 8),
    (TOKENS,),
)
# Segments are of these sources in turn; the first of stream n is of source n.
NUM_SOURCES = 3


def at(model: ModelConfig) -> AtStep:
    """Base of all streams, their length and that of a stage before."""
    return AtStep.of(model, BASE, LENGTHS)


class Source(EveryTarget):
    """Document n has the tokens of stream n; a segment is its piece at the same place. All tokens have a label."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(document)
        tokens_T = torch.randint(0, self._vocab_size, (TOKENS,), generator=generator)
        return tokens_T[start : start + length].numpy()


class LabelledSource(Source):
    """The same tokens, of which some have a label."""

    @staticmethod
    def labels(document: int) -> np.ndarray:
        """bool (TOKENS,): in every fourth document runs of a few, those of tokens 8 to 19, again runs, none."""
        places = np.arange(TOKENS)
        of_each = (places // 4 % 3 != 1, (places >= 8) & (places < 20), places % 7 < 3, places < 0)
        return of_each[document % len(of_each)]

    def count_labels(self, document: int, start: int, length: int) -> int:
        return int(self.labels(document)[start + 1 : start + length].sum())

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray:
        return self.labels(document)[start : start + length]


def sources(vocab_size: int) -> list[Source]:
    """All of them but the last say which tokens have a label."""
    return [LabelledSource(vocab_size) for _ in range(NUM_SOURCES - 1)] + [Source(vocab_size)]


def streams(case: Case, first: int = 0) -> list[PackedBatch]:
    """The global batch: micro-batch m of data rank d is number m * data + d, as `rows_of_rank` deals."""
    many = case.micro_batches * case.data
    return [_stream(first + number, case, None) for number in range(many)]


def streams_of_rank(
    case: Case,
    mesh: Mesh,
    parallel: ParallelConfig,
    first: int = 0,
    keys_at_most: Sequence[int] = (),
) -> list[PackedBatch]:
    """The part of the global batch that a rank reads. keys_at_most: see `dealer`."""
    deal = dealer(case.config, mesh, parallel, keys_at_most)
    mine = range(mesh.data.rank, case.micro_batches * case.data, mesh.data.size)
    return [_stream(first + number, case, deal) for number in mine]


def _stream(number: int, case: Case, deal: Dealer | None) -> PackedBatch:
    """One row of TOKENS."""
    readers = sources(case.config.vocab_size)
    row, at = [], 0
    for segment, length in enumerate(STREAMS[number % len(STREAMS)]):
        source = (segment + number) % NUM_SOURCES
        row.append(Span(source, number, at, length, 0).counted(readers[source]))
        at += length
    placing = Placing(RULES[case.rules], SEED, number, case.windows)
    return assemble([row], TOKENS, readers=readers, pad_id=0, deal=deal, placing=placing)


def valid_by_source(batch: Sequence[PackedBatch]) -> tuple[int, ...]:
    """Tokens with a target of every source, over whole streams."""
    sources_T = torch.cat([stream.sources_T[stream.targets_T != IGNORE] for stream in batch])
    return tuple(torch.bincount(sources_T.long(), minlength=NUM_SOURCES).tolist())


def summed_by_source(losses_T: Tensor, stream: PackedBatch) -> Tensor:
    """The losses of every source of a whole stream, added up in order: float64 (NUM_SOURCES,)."""
    return torch.bincount(
        stream.sources_T.long(), weights=losses_T.detach().double(), minlength=NUM_SOURCES
    )


def part_of_rank(
    stream: PackedBatch,
    model: ModelConfig,
    mesh: Mesh,
    parallel: ParallelConfig,
    windows: Windows = (),
) -> PackedBatch:
    """What a sequence rank holds of a stream. windows: those of a stage."""
    deal = dealer(model, mesh, parallel)
    if deal is None:
        return stream
    share = deal(stream.lengths, windows)
    index = torch.cat([torch.arange(r.start, r.stop) for r in share.ranges])
    return replace(
        stream,
        tokens_T=stream.tokens_T[index],
        targets_T=stream.targets_T[index],
        sources_T=None if stream.sources_T is None else stream.sources_T[index],
        positions_T=None if stream.positions_T is None else stream.positions_T[index],
        share=share,
    )
