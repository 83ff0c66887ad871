"""Positions of the tokens of a packed stream, from the lengths of its spans. Integers only.

PoSE (Zhu et al., arXiv 2309.10400, section 3) trains for positions up to `target_length` on shorter sequences: what
the positions run over is cut into chunks, and chunk i is shifted by a skip u_i, with u_0 = 0 and u_i uniform in
{u_(i-1), ..., target_length - length}. Here that is a span, or, with positions that go on, the spans of a row together.
The cuts and skips are a pure function of (seed, number of the row, number of the span in it), so they are the same on
every rank and after a resume.

    length 6, 2 chunks, target_length 20
    tokens       a b | c d e f
    skips        0     9                 of at most 20 - 6
    positions    0 1  11 12 13 14
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from data.packing.document_order import mix_integers
from data.packing.document_rules import BY_DOCUMENT, DocumentRules, Pose

_CUTS, _SKIPS = 0x4355_5453, 0x534B_4950


@dataclass(frozen=True)
class Placing:
    """How rows are placed in a stream: the rules, what the skips of PoSE are drawn from, and windows.

    seed: of the data. first_row: number, in the whole run, of the first row. windows: for
    the dealer, see `BatchShape`.
    """

    rules: DocumentRules = BY_DOCUMENT
    seed: int = 0
    first_row: int = 0
    windows: tuple[tuple[str, int], ...] = ()

    def of_row(self, index: int) -> "Placing":
        """Of the rows from `index` on."""
        return replace(self, first_row=self.first_row + index)

    def without_pose(self) -> "Placing":
        """The same with plain positions: that of an evaluation."""
        return replace(self, rules=self.rules.without_pose())


# Rows of documents with positions of their own.
PLAIN = Placing()


@dataclass(frozen=True)
class Positions:
    """Positions of the tokens of a stream, as runs in which they rise by one a token.

    starts: int64, place in the stream of the first token of each run. shifts: int64, position less place in the stream.
    """

    starts: np.ndarray
    shifts: np.ndarray

    def of(self, pieces: Sequence[range]) -> np.ndarray:
        """int64: the positions of the tokens at these places of the stream, in order."""
        places = np.concatenate([np.arange(piece.start, piece.stop) for piece in pieces])
        return np.asarray(places + self.shifts[self.starts.searchsorted(places, "right") - 1])

    @classmethod
    def from_starts(cls, starts: Sequence[int]) -> "Positions":
        """Positions that restart at each of these places of the stream."""
        runs = np.array(starts, dtype=np.int64)
        return cls(runs, -runs)

    @classmethod
    def of_rows(
        cls, rows: Sequence[Sequence[int]], sequence_length: int, placing: Placing
    ) -> "Positions":
        """Positions of rows of spans of these lengths, laid end to end and each padded to `sequence_length`."""
        rules, runs = placing.rules, []
        for number, spans in enumerate(rows):
            at, end = number * sequence_length, (number + 1) * sequence_length
            for segment, length in enumerate(spans if rules.reset_positions else [sum(spans)]):
                key = (placing.seed, placing.first_row + number, segment)
                runs += [(at + cut, skip - at) for cut, skip in _chunks(length, rules.pose, key)]
                at += length
            if at < end:
                runs.append((at, -at))
        starts, shifts = np.array(runs, dtype=np.int64).T
        return cls(starts, shifts)


def _chunks(length: int, pose: Pose | None, key: tuple[int, int, int]) -> Iterator[tuple[int, int]]:
    """First token and skip of every chunk of `length` tokens; of none if `length` is 0."""
    if not length:
        return iter(())
    if pose is None:
        return iter([(0, 0)])
    cuts = _distinct(length - 1, min(pose.chunks, length) - 1, key)
    skips = accumulate(
        (mix_integers(*key, _SKIPS, number) for number in range(len(cuts))),
        lambda skip, draw: skip + draw % (pose.target_length - length - skip + 1),
        initial=0,
    )
    return zip((0, *cuts), skips, strict=True)


def _distinct(most: int, count: int, key: tuple[int, int, int]) -> list[int]:
    """`count` distinct numbers of 1 to `most`, ascending; every choice is equally likely (Floyd's sampling)."""
    chosen: set[int] = set()
    for number in range(most - count + 1, most + 1):
        draw = 1 + mix_integers(*key, _CUTS, number) % number
        chosen.add(number if draw in chosen else draw)
    return sorted(chosen)
