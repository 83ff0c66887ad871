"""Up to which length does it work? What each formula says of a stage, beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from model.layer_pattern import expand_pattern
from model.position.advice.effective_length import (
    Counts,
    effective_length,
    position_frequency,
    reach_of_stack,
)
from train.advise.subject import Moment, Subject

# Longest length whose positions are looked at one by one.
MOST = 2**24
# Two models of 1.3B parameters worked up to the position that training had this often (arXiv 2410.18745).
OFTEN = 10**11


@dataclass(frozen=True)
class Effective:
    """The effective lengths of a stage, in tokens.

    windows_carry: how far its layers with a window or chunk carry information, without the full layers; None: there
    are none. trained_often: number of positions that occur at least OFTEN times up to the end of the stage, at most,
    since documents are taken to fill whole rows; None: it is not known what was trained. Both are None above MOST.
    """

    moment: Moment
    windows_carry: int | None
    trained_often: int | None


def effective_lengths(subject: Subject) -> tuple[Effective, ...]:
    """Returns the effective lengths of every stage."""
    found = []
    for number, moment in enumerate(subject.moments):
        counts = trained(subject.moments[: number + 1])
        often = None if counts is None else effective_length(counts, OFTEN)
        found.append(Effective(moment, _carry(moment), often))
    return tuple(found)


def trained(moments: Sequence[Moment]) -> Counts | None:
    """Returns how often each position from 0 occurs in these stages, int64 (N,), if every row is one document.

    None: it is not known, or a stage is longer than MOST.
    """
    longest = max(moment.length for moment in moments)
    if longest > MOST or not all(moment.rows for moment in moments):
        return None
    found_N: Counts = numpy.zeros(longest, dtype=numpy.int64)
    for moment in moments:
        found_N[: moment.length] += moment.rows * position_frequency([moment.length])
    return found_N


def _carry(moment: Moment) -> int | None:
    limited = [spec.reach for spec in expand_pattern(moment.model) if spec.reach.limit is not None]
    # No stack carries farther than the sum of its limits; attention chunks may begin at any place of it.
    length = min(moment.length, 2 * sum(reach.limit or 0 for reach in limited))
    return reach_of_stack(limited, length) if limited and length <= MOST else None
