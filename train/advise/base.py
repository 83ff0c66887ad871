"""Is the base enough? How far each rotation reaches, and which bases reach a length (arXiv 2405.14591).

Layers that see the whole document are judged by the sequence length, layers with a window or chunk by that.
"""

from dataclasses import dataclass

from model.position.advice.base_bound import (
    PER_E,
    BaseBound,
    base_bound,
    published_fit,
    reach,
)
from model.position.advice.bound_table import tabled_bound
from model.position.ntk import ntk_base
from train.advise.subject import Case

# Longest length that bases are searched for, since a search evaluates every distance for hundreds; longest reach.
MOST, MOST_REACH = 2**20, 2**24
# Heads wider than any of a released model are looked at up to here only.
_WIDEST, _MOST_OF_WIDE = 1024, 2**12
# Below this base the search ends: any base reaches the length.
ANY_BASE = 2.0
# Longest length that is searched on the fine grid of bases, and bases per factor of e beyond.
_FINE, _COARSE = 2**17, 200


@dataclass(frozen=True)
class Reach:
    """The reach of one case: the largest distance up to which a similar key is ahead of a random one.

    searched: the distance up to which it was searched; the reach may be longer if it is this long.
    """

    case: Case
    tokens: int
    searched: int

    @property
    def may_be_longer(self) -> bool:
        """Whether the search ended before the reach did."""
        return self.tokens >= self.searched

    def covers(self, length: int) -> bool | None:
        """Whether it is as long as `length` in tokens; None: that was not searched."""
        return True if self.tokens >= length else None if self.may_be_longer else False

    @property
    def enough(self) -> bool | None:
        """Whether it covers all distances that these layers see; None: they see farther than was searched."""
        return self.covers(self.case.kind.sees)


@dataclass(frozen=True)
class Bases:
    """Bases for one length, of layers that rotate as `case` does.

    bound: None where the length is above MOST or no base reaches it. ntk: the NTK-aware base, from `pretrained`; None
    where the length is not longer.
    """

    case: Case
    length: int
    bound: BaseBound | None
    fit: float
    ntk: float | None


def reach_of(case: Case) -> Reach:
    """Returns the reach of a case."""
    searched = MOST_REACH if case.head_dim <= _WIDEST else _MOST_OF_WIDE
    return Reach(case, reach(case.head_radians(), searched), searched)


def most_of(case: Case) -> int:
    """Returns the length up to which bases of a case are searched, in tokens."""
    return MOST if case.head_dim <= _WIDEST else _MOST_OF_WIDE


def bases_for(case: Case, length: int) -> Bases:
    """Returns the bases for a length in tokens."""
    width, (base, before) = case.width, case.kind.pretrained
    longer = length > before and width > 2
    ntk = ntk_base(base, length / before, width) if longer else None
    return Bases(case, length, _bound(case, length), published_fit(length), ntk)


def _bound(case: Case, length: int) -> BaseBound | None:
    if length > most_of(case) or case.width <= 2:
        return None
    turning = len(case.radians)
    if (
        case.head_dim // 2 - turning >= turning
    ):  # the pairs that stand still outweigh the others at any distance
        return BaseBound(length, ANY_BASE, ANY_BASE)
    if case.is_plain:
        tabled = tabled_bound(length, case.head_dim)
        if tabled is not None and tabled.length == length:
            return tabled
    per_e = PER_E if length <= _FINE else _COARSE
    try:
        return base_bound(length, case.head_radians, per_e=per_e)
    except ValueError:
        return None
