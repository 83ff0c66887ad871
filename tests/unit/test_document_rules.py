"""Attention documents, positions and skips of packed rows, against plain loops over tokens."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from data.batch import IGNORE, PackedBatch, RankReader, assemble
from data.labels import EveryTarget
from data.loader import make_global_batch
from data.packing.document_rules import BY_DOCUMENT, DocumentRules, Pose
from data.packing.planner import BatchPlanner
from data.packing.positions import Placing, Positions
from data.packing.spans import BatchShape, Span

PAD, SEED = 9, 5
# Three rows of 6: with padding, without spans, full.
ROWS = [
    [Span(0, 0, 0, 3, 0), Span(0, 1, 0, 2, 0)],
    [],
    [Span(0, 2, 4, 1, 0), Span(0, 3, 0, 5, 0)],
]
POSE = Pose(chunks=3, target_length=60)
RULES = [DocumentRules(*values) for values in product((True, False), (True, False), (None, POSE))]


class Reader(EveryTarget):
    """Token t of document d is 100 d + t."""

    def __init__(self, lengths: tuple[int, ...] = (1, 300, 17, 64, 2, 1, 129, 33, 8, 70)) -> None:
        self.lengths, self.num_documents = np.array(lengths), len(lengths)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return self.lengths[documents]

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return 100 * document + np.arange(start, start + length)


def packed(rules: DocumentRules, first_row: int = 0) -> PackedBatch:
    placing = Placing(rules, SEED, first_row)
    return assemble(ROWS, 6, readers=[Reader()], pad_id=PAD, placing=placing)


@pytest.mark.parametrize(
    ("mask", "reset", "lengths", "positions"),
    [
        (True, True, (3, 2, 1, 6, 1, 5), None),
        (True, False, (3, 2, 1, 6, 1, 5), [0, 1, 2, 3, 4, 0, *range(6), *range(6)]),
        (False, True, (5, 1, 6, 6), [0, 1, 2, 0, 1, 0, *range(6), 0, *range(5)]),
        (False, False, (5, 1, 6, 6), None),
    ],
)
def test_golden_rows(
    mask: bool, reset: bool, lengths: tuple[int, ...], positions: list[int] | None
) -> None:
    batch = packed(DocumentRules(mask, reset))
    assert batch.lengths == lengths
    assert (None if batch.positions_T is None else batch.positions_T.tolist()) == positions


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_tokens_labels_counts_and_places_are_the_same_under_all_rules(rules: DocumentRules) -> None:
    batch, plain = packed(rules), packed(BY_DOCUMENT)
    assert torch.equal(batch.tokens_T, plain.tokens_T)
    assert torch.equal(batch.targets_T, plain.targets_T)
    # The last token of each span has no label, whether or not attention goes on past it.
    ends = [at + length - 1 for at, length in zip(batch.starts, (3, 2, 1, 6, 1, 5), strict=True)]
    assert (batch.targets_T[ends] == IGNORE).all()
    assert (batch.valid_tokens, batch.padding_tokens) == (1 + 2 + 4, 7)
    assert batch.starts == (0, 3, 5, 6, 12, 13)
    assert batch.spans == plain.spans
    places = [0, 1, 2, 0, 1, 0, *range(6), 0, *range(5)]
    assert batch.place_in_segment_T().tolist() == places


def skips_of(
    length: int, pose: Pose, seed: int = SEED, row: int = 0
) -> tuple[list[int], list[int]]:
    """Positions of one document alone in its row, and the places where a chunk starts."""
    placing = Placing(DocumentRules(pose=pose), seed, row)
    found = Positions.of_rows([[length]], length, placing)
    assert len(found.starts) == len(found.shifts)
    return found.of([range(length)]).tolist(), found.starts.tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 4, 17, 40])
@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_skips_never_fall_and_positions_end_within_the_target(length: int, chunks: int) -> None:
    for row in range(50):
        positions, cuts = skips_of(length, Pose(chunks, 40), row=row)
        assert len(cuts) == len(set(cuts)) == min(chunks, length)
        assert positions[0] == cuts[0] == 0
        assert positions[-1] <= 39
        assert all(after > before for before, after in pairwise(positions))
        jumps = [at for at in range(1, length) if positions[at] != positions[at - 1] + 1]
        assert set(jumps) <= set(cuts), "positions rise by one a token inside a chunk"


def test_one_token_stands_at_zero_and_a_document_of_the_target_has_no_skips() -> None:
    assert skips_of(1, POSE)[0] == [0]
    assert skips_of(60, POSE)[0] == list(range(60))


def test_with_two_chunks_cuts_and_skips_are_uniform() -> None:
    length, target, draws = 4, 9, 6000
    found = [skips_of(length, Pose(2, target), row=row) for row in range(draws)]
    # Chi-squared at 0.1 % for 2 and 5 degrees of freedom; the seed is fixed.
    cuts = np.bincount([cuts[1] for _, cuts in found], minlength=length)[1:]
    assert ((cuts - draws / 3) ** 2 / (draws / 3)).sum() < 13.8
    skips = np.bincount([positions[-1] - length + 1 for positions, _ in found])
    assert len(skips) == target - length + 1, "every skip comes, the largest ends the target"
    assert ((skips - draws / 6) ** 2 / (draws / 6)).sum() < 20.5


def test_every_choice_of_cuts_comes_equally_often() -> None:
    draws = 6000
    chosen = [tuple(skips_of(5, Pose(3, 9), row=row)[1][1:]) for row in range(draws)]
    counts = np.array([chosen.count(pair) for pair in sorted(set(chosen))])
    assert len(counts) == 6
    assert ((counts - draws / 6) ** 2 / (draws / 6)).sum() < 20.5


def test_skips_are_drawn_from_seed_row_and_segment_alone() -> None:
    pose = Pose(2, 1000)
    rows = [[20, 20], [20]]
    placing = Placing(DocumentRules(pose=pose), SEED, 7)
    found = Positions.of_rows(rows, 40, placing).of([range(80)])
    first, second, third = found[:20], found[20:40], found[40:60]
    assert first.tolist() == skips_of(20, pose, row=7)[0]
    assert third.tolist() == skips_of(20, pose, row=8)[0]
    assert len({tuple(x) for x in (first, second, third)}) == 3
    assert found[60:].tolist() == list(range(20)), "padding has plain positions"
    assert skips_of(20, pose, seed=6) != skips_of(20, pose)
    going_on = Placing(DocumentRules(False, False, pose), SEED, 7)
    one = Positions.of_rows(rows, 40, going_on).of([range(80)])
    assert one[:40].tolist() == skips_of(40, pose, row=7)[0], "a row is cut as one"


class _Ranges:
    def __init__(self, *ranges: range) -> None:
        self.ranges = ranges


def positions_of_run(
    rules: DocumentRules, *, rows_each: int, dp_size: int, resume_after: int, sp_size: int
) -> list[tuple[int, ...]]:
    """Positions of every row of three steps, put together from what the ranks hold."""
    length, rows = 48, 12
    shape = BatchShape(length, rows * length, rows_each * length, (1.0,), rules)
    found: dict[int, list[int]] = {}
    for dp_rank, sp_rank in product(range(dp_size), range(sp_size)):
        planner = BatchPlanner([Reader()], seed=3, look_ahead=4)
        width = rows_each * length // (2 * sp_size)
        own = [range(c * width, (c + 1) * width) for c in (sp_rank, 2 * sp_size - 1 - sp_rank)]
        reader = RankReader(
            [Reader()], PAD, dp_rank, dp_size, lambda _lengths, _windows, own=own: _Ranges(*own)
        )
        for step in range(3):
            if step == resume_after:
                cursor = planner.state_dict()
                planner = BatchPlanner([Reader()], seed=3, look_ahead=4)
                planner.load_state_dict(cursor)
            batch = make_global_batch(planner, shape, reader)
            for number, one in enumerate(batch.micro_batches):
                first = step * rows + (number * dp_size + dp_rank) * rows_each
                held = np.concatenate([np.arange(piece.start, piece.stop) for piece in own])
                positions = Positions.from_starts((0,)).of(own)
                if one.positions_T is not None:
                    positions = one.positions_T.numpy()
                for place, position in zip(held.tolist(), positions.tolist(), strict=True):
                    row = found.setdefault(first + place // length, [-1] * length)
                    row[place % length] = position
    assert sorted(found) == list(range(3 * rows))
    return [tuple(found[number]) for number in sorted(found)]


@pytest.mark.parametrize("rules", [r for r in RULES if not r.plain_positions], ids=str)
def test_positions_are_equal_for_every_layout_micro_batch_and_resume(rules: DocumentRules) -> None:
    whole = positions_of_run(rules, rows_each=12, dp_size=1, resume_after=0, sp_size=1)
    if rules.pose:
        assert 48 < max(map(max, whole)) < POSE.target_length
    for rows_each, dp_size, resume_after, sp_size in (
        (1, 1, 1, 1),
        (2, 3, 2, 1),
        (3, 2, 1, 2),
        (1, 4, 2, 3),
    ):
        assert whole == positions_of_run(
            rules,
            rows_each=rows_each,
            dp_size=dp_size,
            resume_after=resume_after,
            sp_size=sp_size,
        )
