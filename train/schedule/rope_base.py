"""RoPE base over a run: policies that are pure functions of tokens.

A stage has `rope_base: 10000`, or a policy:

    {policy: stepped, steps: [[0, 1e4], [2e6, 5e4]]}       pairs [tokens into the stage, base from there on]
    {policy: ramp, start: 1e4, end: 5e5, tokens: 4e6}      log-linear over tokens, then constant; without
                                                           `start` from the previous stage's last base,
                                                           without `tokens` over the whole stage
    {policy: keep}                                         the previous stage's last base
    {policy: ntk}                                          previous base * s^(d/(d-2)), s the growth of length
                                                           (NTK-aware interpolation)
    {policy: safe}                                         lower bound of Men et al. 2024 (arXiv 2405.14591)
                                                           for the distances the rotary layers see

For the first stage the previous base is that of the imported model, if there is one (`schedule.start_base`).

The bound: B_b(m) = sum_i cos(m b^(-2i/d)) must stay >= 0 up to the distance L. Feasible bases are a union
of narrow intervals, so `safe` is the smallest base above which every base of the grid is feasible.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from model.config import ModelConfig
from model.layer_pattern import layer_kinds
from model.position.advice.base_bound import reaches
from model.position.ntk import ntk_base
from model.position.settings import inverse_frequencies
from model.reach import WHOLE_DOCUMENT
from train.configuration.schema import ConstantBase, DerivedBase, RampBase, RopeBase, SteppedBase

# Grid of `safe_base`: bases from 12x the published fit downwards, this many per factor of e.
_GRID_PER_E = 800
# The search evaluates every distance for thousands of bases: three seconds at this reach.
MOST_SAFE_REACH = 2**20


@dataclass(frozen=True)
class BaseCurve:
    """Base as a log-linear function of tokens into the stage, through these corners (tokens, base).

    Two corners at the same tokens are a step: the later one holds from there on.
    """

    corners: tuple[tuple[int, float], ...]

    def at(self, tokens: int) -> float:
        """Returns the base of the step that starts after `tokens` tokens of the stage."""
        before = [corner for corner in self.corners if corner[0] <= tokens]
        after = [corner for corner in self.corners if corner[0] > tokens]
        if not before:
            return self.corners[0][1]
        if not after:
            return before[-1][1]
        (start, low), (end, high) = before[-1], after[0]
        if low == high:
            return low
        return float(low * (high / low) ** ((tokens - start) / (end - start)))

    @property
    def last(self) -> float:
        """Returns the base at the end of the stage."""
        return self.corners[-1][1]


@dataclass(frozen=True)
class StageFacts:
    """The inputs of a policy."""

    tokens: int
    # Under PoSE the length that positions reach.
    sequence_length: int
    # Width of a head's rotation.
    head_dim: int
    # Largest distance a rotary layer sees in this stage.
    rotary_reach: int
    previous_base: float | None
    previous_length: int | None


def base_curve(value: RopeBase, facts: StageFacts) -> BaseCurve:
    """Returns the curve of a stage's `rope_base` value.

    Raises:
        ValueError: a rule is broken; the message starts with ": " or "." to follow the key.
    """
    match value:
        case SteppedBase():
            return _stepped(value, facts)
        case RampBase():
            return _ramp(value, facts)
        case DerivedBase():
            return _constant(DERIVED[value.policy](facts))
        case ConstantBase():
            return _constant(value.base)
    return _constant(value)


def bases_by_kind(model: ModelConfig, base: float) -> dict[str, float]:
    """Returns the base of each kind of rotary layer in the model; `base` is the schedule's.

    Keys are the names under which kinds are reported: "window", "full", "chunk", or the name of a further kind.
    """
    specs = layer_kinds(model).values()
    found = {spec.reported_as: spec.rope.base_of(base) for spec in specs if spec.rope is not None}
    return dict(sorted(found.items()))


def scheduled_base(model: ModelConfig, rope_base: Mapping[str, float]) -> float:
    """Returns the base of the layers that follow the schedule. rope_base: the base of each kind of rotary layer."""
    for spec in sorted(layer_kinds(model).values(), key=lambda spec: spec.reach != WHOLE_DOCUMENT):
        if spec.rope is not None and not spec.rope.base and spec.reported_as in rope_base:
            return rope_base[spec.reported_as]
    return next(iter(rope_base.values()), 10_000.0)


def _constant(base: float) -> BaseCurve:
    return BaseCurve(((0, base),))


def _stepped(policy: SteppedBase, facts: StageFacts) -> BaseCurve:
    starts = [tokens for tokens, _ in policy.steps]
    if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= facts.tokens:
        raise ValueError(
            f".steps: tokens {starts} must start at 0, grow, and end before the stage's {facts.tokens}"
        )
    corners = [policy.steps[0]]
    for (_, old), (tokens, new) in itertools.pairwise(policy.steps):
        corners += [(tokens, old), (tokens, new)]
    return BaseCurve(tuple(corners))


def _ramp(policy: RampBase, facts: StageFacts) -> BaseCurve:
    start = policy.start or facts.previous_base
    if start is None:
        raise ValueError(": policy ramp in the first stage needs a start")
    tokens = policy.tokens or facts.tokens
    if tokens > facts.tokens:
        raise ValueError(f".tokens={tokens}: must be in 1..{facts.tokens}, the stage's tokens")
    return BaseCurve(((0, start), (tokens, policy.end)))


def _kept(facts: StageFacts) -> float:
    if facts.previous_base is None:
        raise ValueError(
            ": policy keep needs a stage before this one, or model=from_huggingface; give a number"
        )
    return facts.previous_base


def _ntk(facts: StageFacts) -> float:
    if facts.previous_base is None or facts.previous_length is None:
        raise ValueError(
            ": policy ntk needs a stage before this one; give the first stage a number"
        )
    _refuse_one_pair(facts, "ntk")
    base = ntk_base(
        facts.previous_base, facts.sequence_length / facts.previous_length, facts.head_dim
    )
    if not 1.0 < base < math.inf:
        raise ValueError(f": policy ntk would make the base {base:g}; give a number")
    return base


def _safe(facts: StageFacts) -> float:
    _refuse_one_pair(facts, "safe")
    if facts.rotary_reach > MOST_SAFE_REACH:
        raise ValueError(f": policy safe works for lengths up to {MOST_SAFE_REACH}; give a number")
    return safe_base(facts.rotary_reach, facts.head_dim)


# Keys are the values of `DerivedBase.policy`.
DERIVED: Mapping[str, Callable[[StageFacts], float]] = MappingProxyType(
    {"keep": _kept, "ntk": _ntk, "safe": _safe}
)


def _refuse_one_pair(facts: StageFacts, policy: str) -> None:
    """Raises ValueError for a single rotary pair: its frequency is one radian per token, whatever the base."""
    if facts.head_dim <= 2:
        raise ValueError(
            f": policy {policy} needs model.head_dim above 2, it is {facts.head_dim}; give a number"
        )


@lru_cache(maxsize=256)
def safe_base(length: int, head_dim: int) -> float:
    """Returns the smallest base above which every base, up to 12x the published fit, keeps B >= 0 up to `length`."""
    base = top = 12.0 * 0.0424 * float(max(length, 64)) ** 1.628
    while not reaches(inverse_frequencies(top, head_dim), length):
        base = top = top * 2.0
    step = math.exp(-1.0 / _GRID_PER_E)
    while base > 2.0 and reaches(inverse_frequencies(base * step, head_dim), length):
        base *= step
    return float(base)
