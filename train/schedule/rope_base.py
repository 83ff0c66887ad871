"""RoPE base over a run: policies that are pure functions of tokens, and the facts to warn about.

A stage says `rope_base: 10000`, or a policy:

    {policy: stepped, steps: [[0, 1e4], [2e6, 5e4]]}       base from so many tokens into the stage on
    {policy: ramp, start: 1e4, end: 5e5, tokens: 4e6}      log-linear over tokens, then constant; without
                                                           `start` from the previous stage's last base,
                                                           without `tokens` over the whole stage
    {policy: keep}                                         the previous stage's last base
    {policy: ntk}                                          previous base * s^(d/(d-2)), s the growth of length
                                                           (NTK-aware interpolation)
    {policy: safe}                                         lower bound of Men et al. 2024 (arXiv 2405.14591)
                                                           for the distances the rotary layers see

What stands before the first stage is an imported model, where there is one (`schedule.start_base`).

The bound: B_b(m) = sum_i cos(m b^(-2i/d)) must stay >= 0 up to the distance L. Feasible bases are a union
of narrow intervals, so `safe` is the smallest base above which every base of the grid is feasible.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np

from model.config import ModelConfig
from model.layer_pattern import layer_kinds
from model.position.ntk import ntk_base

POLICIES = ("constant", "keep", "stepped", "ramp", "ntk", "safe")
_FIELDS = {
    "constant": {"base"},
    "keep": set[str](),
    "stepped": {"steps"},
    "ramp": {"start", "end", "tokens"},
    "ntk": set[str](),
    "safe": set[str](),
}
# Grid of `safe_base`: bases from 12x the published fit downwards, this many per factor of e.
_GRID_PER_E = 800
# The search looks at every distance, for thousands of bases: a minute for this one.
MOST_SAFE_REACH = 2**20
_BLOCK = 4096


@dataclass(frozen=True)
class BaseCurve:
    """Base as a log-linear function of tokens into the stage, through these corners (tokens, base).

    A corner reached twice is a step: the later one counts from its tokens on.
    """

    corners: tuple[tuple[int, float], ...]

    def at(self, tokens: int) -> float:
        """Base when `tokens` of the stage have been seen before this step."""
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
        """Base at the end of the stage."""
        return self.corners[-1][1]


@dataclass(frozen=True)
class StageFacts:
    """What a policy may depend on."""

    tokens: int
    sequence_length: int
    head_dim: int
    # Largest distance a rotary layer sees in this stage.
    rotary_reach: int
    previous_base: float | None
    previous_length: int | None


def base_curve(value: Any, facts: StageFacts) -> BaseCurve:
    """Curve of the stage's `rope_base` value.

    Raises:
        ValueError: a rule is broken; the message starts with ": " or "." to follow the key.
    """
    policy = value if isinstance(value, Mapping) else {"policy": "constant", "base": value}
    if isinstance(value, str) and value in POLICIES:
        policy = {"policy": value}
    name = policy.get("policy", "constant")
    if name not in POLICIES:
        raise ValueError(
            f".policy={name}: must be one of {', '.join(POLICIES)}{_near(name, POLICIES)}"
        )
    for field in policy.keys() - {"policy"} - _FIELDS[name]:
        known = sorted(_FIELDS[name])
        raise ValueError(
            f".{field}: policy {name} takes {known or 'no fields'}{_near(field, known)}"
        )
    if name == "stepped":
        return _stepped(policy, facts)
    if name == "ramp":
        return _ramp(policy, facts)
    if name == "keep":
        if facts.previous_base is None:
            raise ValueError(
                ": policy keep needs a stage before this one, or model=from_huggingface; give a number"
            )
        return _constant(_number(facts.previous_base, ""))
    if name == "ntk":
        return _constant(_number(_ntk(facts), ""))
    if name == "safe":
        _refuse_one_pair(facts, "safe")
        if facts.rotary_reach > MOST_SAFE_REACH:
            raise ValueError(f": policy safe knows lengths up to {MOST_SAFE_REACH}; give a number")
        return _constant(safe_base(facts.rotary_reach, facts.head_dim))
    return _constant(_number(policy.get("base"), ".base" if isinstance(value, Mapping) else ""))


def bases_by_kind(model: ModelConfig, base: float) -> dict[str, float]:
    """The base of each kind of rotary layer that the model has, where the schedule's is `base`.

    By the name under which the kind is reported: "window", "full", or that of a further kind.
    """
    specs = layer_kinds(model).values()
    found = {spec.reported_as: spec.rope.base_of(base) for spec in specs if spec.rope is not None}
    return dict(sorted(found.items()))


def scheduled_base(model: ModelConfig, rope_base: Mapping[str, float]) -> float:
    """The base of the layers that follow a schedule; rope_base: of each kind of rotary layer."""
    for spec in sorted(layer_kinds(model).values(), key=lambda spec: spec.window is not None):
        if spec.rope is not None and not spec.rope.base and spec.reported_as in rope_base:
            return rope_base[spec.reported_as]
    return next(iter(rope_base.values()), 10_000.0)


def _constant(base: float) -> BaseCurve:
    return BaseCurve(((0, base),))


def _stepped(policy: Mapping[str, Any], facts: StageFacts) -> BaseCurve:
    steps = policy.get("steps")
    if not isinstance(steps, list) or not all(isinstance(s, list) and len(s) == 2 for s in steps):
        raise ValueError(".steps: must be a list of [tokens, base], the first at 0 tokens")
    pairs = [(_tokens(tokens), _number(base, ".steps")) for tokens, base in steps]
    starts = [tokens for tokens, _ in pairs]
    if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= facts.tokens:
        raise ValueError(
            f".steps: tokens {starts} must start at 0, grow, and end before the stage's {facts.tokens}"
        )
    corners = [pairs[0]]
    for (_, old), (tokens, new) in itertools.pairwise(pairs):
        corners += [(tokens, old), (tokens, new)]
    return BaseCurve(tuple(corners))


def _ramp(policy: Mapping[str, Any], facts: StageFacts) -> BaseCurve:
    start = policy.get("start", facts.previous_base)
    if start is None:
        raise ValueError(": policy ramp in the first stage needs a start")
    tokens = policy.get("tokens", facts.tokens)
    if not _is_number(tokens) or not 1 <= tokens <= facts.tokens:
        raise ValueError(f".tokens={tokens}: must be in 1..{facts.tokens}, the stage's tokens")
    return BaseCurve(
        ((0, _number(start, ".start")), (int(tokens), _number(policy.get("end"), ".end")))
    )


def _ntk(facts: StageFacts) -> float:
    if facts.previous_base is None or facts.previous_length is None:
        raise ValueError(
            ": policy ntk needs a stage before this one; give the first stage a number"
        )
    _refuse_one_pair(facts, "ntk")
    growth = facts.sequence_length / facts.previous_length
    return ntk_base(facts.previous_base, growth, facts.head_dim)


def _refuse_one_pair(facts: StageFacts, policy: str) -> None:
    """A single pair turns by one radian a token whatever the base is: there is nothing to choose."""
    if facts.head_dim <= 2:
        raise ValueError(
            f": policy {policy} needs model.head_dim above 2, it is {facts.head_dim}; give a number"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tokens(value: Any) -> int:
    if not _is_number(value) or not math.isfinite(value) or value != int(value):
        raise ValueError(f".steps: {value} is no number of tokens; give a whole one")
    return int(value)


def _number(value: Any, where: str) -> float:
    if not _is_number(value) or not 1.0 < value < math.inf:
        raise ValueError(f"{where}={value}: a RoPE base must be a number above 1, usual is 10000")
    return float(value)


def _near(name: str, known: Any) -> str:
    match = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {match[0]}?" if match else ""


@lru_cache(maxsize=256)
def reach_of_base(base: float, head_dim: int, limit: int) -> int:
    """L_b of arXiv 2405.14591: largest L <= limit with B_b(m) >= 0 for every 0 <= m <= L."""
    frequencies = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    for start in range(0, limit + 1, _BLOCK):
        m = np.arange(start, min(start + _BLOCK, limit + 1), dtype=np.float64)
        negative = np.flatnonzero(np.cos(m[:, None] * frequencies).sum(axis=1) < 0.0)
        if len(negative):
            return start + int(negative[0]) - 1
    return limit


@lru_cache(maxsize=256)
def safe_base(length: int, head_dim: int) -> float:
    """Smallest base from which on every base, up to 12x the published fit, keeps B >= 0 up to `length`."""
    base = top = 12.0 * 0.0424 * float(max(length, 64)) ** 1.628
    while reach_of_base(top, head_dim, length) < length:
        base = top = top * 2.0
    step = math.exp(-1.0 / _GRID_PER_E)
    while base > 2.0 and reach_of_base(base * step, head_dim, length) >= length:
        base *= step
    return float(base)
