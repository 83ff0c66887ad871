"""Hostile packed streams for the parity tests, and each rank's part of them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from data.batch import IGNORE, PackedBatch, Windows
from data.packing.document_rules import BY_DOCUMENT, DocumentRules
from data.packing.positions import Placing, Positions
from data.packing.spans import starts_of
from model.at_step import AtStep
from model.config import ModelConfig
from parallel.config import ParallelConfig
from parallel.mesh import Mesh
from tests.parity.layout_cases import RULES, TOKENS, Case
from train.build_trainer import dealer

BASE, Z_LOSS, SEED = 500.0, 1e-3, 11
# Sequence lengths trained at: those of a stage before, and of this one.
LENGTHS = (TOKENS // 2, TOKENS)
# Segment lengths of the streams, in turn; the last segment of the first is padding.
STREAMS = (
    (1, 70, 1, 1, 20, 3),
    (TOKENS,),
    (5, 1, 2, 8, 1, 1, 30, 40, 8),
    (TOKENS,),  # no label at all
)
WITHOUT_LABEL = 3
# Segments are of these sources in turn; the first of stream n is of source n.
NUM_SOURCES = 3


def at(model: ModelConfig) -> AtStep:
    """Base of all streams, their length and that of a stage before."""
    return AtStep.of(model, BASE, LENGTHS)


def streams(case: Case, first: int = 0) -> list[PackedBatch]:
    """The global batch: micro-batch m of data rank d is number m * data + d, as `rows_of_rank` deals."""
    many = case.micro_batches * case.data
    rules = RULES[case.rules]
    return [_stream(first + number, case.config, many, rules) for number in range(many)]


def _stream(
    number: int, model: ModelConfig, many: int, rules: DocumentRules = BY_DOCUMENT
) -> PackedBatch:
    """One row of TOKENS."""
    lengths = STREAMS[number % len(STREAMS)]
    generator = torch.Generator().manual_seed(number)
    tokens_T = torch.randint(0, model.vocab_size, (TOKENS,), generator=generator)
    targets_T = tokens_T.roll(-1)
    targets_T[torch.tensor(lengths).cumsum(0) - 1] = IGNORE
    spans = lengths
    if number % len(STREAMS) == 0:
        spans = lengths[:-1]
        targets_T[TOKENS - lengths[-1] :] = IGNORE
    if number % len(STREAMS) == WITHOUT_LABEL and many > 1:
        targets_T[:] = IGNORE
    valid = int((targets_T != IGNORE).sum())
    source = (torch.arange(len(lengths)) + number) % NUM_SOURCES
    return PackedBatch(
        tokens_T,
        targets_T,
        rules.attention_documents([spans], TOKENS),
        starts_of(lengths),
        valid,
        0,
        (),
        sources_T=source.to(torch.int16).repeat_interleave(torch.tensor(lengths)),
        positions_T=_positions_T(spans, number, rules),
    )


def _positions_T(spans: Sequence[int], number: int, rules: DocumentRules) -> Tensor | None:
    if rules.plain_positions:
        return None
    positions = Positions.of_rows([spans], TOKENS, Placing(rules, SEED, number))
    return torch.from_numpy(positions.of([range(TOKENS)]))


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
