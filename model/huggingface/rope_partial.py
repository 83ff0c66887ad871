"""Rotation of a part of every head in a config.json: two kinds that look alike, of a head of d dimensions.

    ordinary       partial_rotary_factor p beside any rope_type, in families whose attention slices heads (Phi-3):
                   the first r = p d dimensions turn, in pairs (i, i + r / 2), by base ** (-2i / r)
    proportional   rope_type=proportional, p-RoPE (Gemma 4), in all other families of transformers 5: pairs
                   (i, i + d / 2) of the whole head; the first p d / 2 turn, by base ** (-2i / d), the others by 0

Families that turn whole heads do not read the key as ordinary partial rotation: with rope_type=default transformers 5
ignores it, and everything else fails because there are fewer frequencies than pairs. Here a family that has not the
kind is refused, in both directions.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_rules import PROPORTIONAL, RopeRules
from model.huggingface.rope_values import number
from model.position.linear import LinearRope
from model.position.methods import RopeMethod
from model.position.ntk import NtkRope, ntk_base
from model.position.rope import Rope
from model.position.settings import RopeSettings

Json = dict[str, Any]
PARTIAL = "partial_rotary_factor"


def read_share(
    given: Mapping[str, Any], config: Mapping[str, Any], kind: str, rules: RopeRules
) -> float:
    """The part of each head that turns, above 0 and up to 1. kind: the `rope_type`.

    Raises:
        CannotExpress: an invalid value, two values, or a family that turns whole heads.
    """
    inside, outside = given.get(PARTIAL), config.get(PARTIAL)
    if None not in (inside, outside) and inside != outside:
        raise CannotExpress(
            [
                f"config.json: {PARTIAL}: {inside} in rope_parameters, {outside} outside; transformers 5 takes the "
                "first, transformers 4 the second; write the same into both"
            ]
        )
    found = outside if inside is None else inside
    if found is None:
        return 1.0
    share = number({PARTIAL: found}, PARTIAL)
    if not 0.0 < share <= 1.0:
        raise CannotExpress([f"config.json: {PARTIAL}={share}: must be above 0 and at most 1"])
    if share < 1.0 and not rules.slices and kind != PROPORTIONAL:
        raise CannotExpress(
            [
                f"config.json: {PARTIAL}={share}: attention of this family turns whole heads: transformers 5 ignores "
                "the key with rope_type=default and fails with other types, transformers 4 fails; remove it, or write "
                f"rope_type={PROPORTIONAL} if the model was trained with p-RoPE"
            ]
        )
    return share


def read_proportional(given: Mapping[str, Any]) -> RopeMethod:
    """The scaling beside p-RoPE: none, or position interpolation."""
    factor = 1.0 if given.get("factor") is None else number(given, "factor")
    if not factor >= 1.0:
        raise CannotExpress([f"config.json: rope factor={factor}: must be a number from 1 up"])
    return LinearRope(factor=factor) if factor > 1.0 else Rope()


def with_share(rope: RopeMethod, kind: str, share: float) -> RopeMethod:
    """The same method, which turns this share of each head."""
    if share == 1.0:
        return rope
    if kind == PROPORTIONAL:
        return replace(rope, rotary_share=share, partial="proportional")
    return replace(rope, rotary_share=share, partial="ordinary")


def is_proportional(rope: RopeSettings) -> bool:
    """Whether it turns a part of the frequencies of whole heads."""
    return rope.rotary_share != 1.0 and rope.partial == "proportional"


def write_proportional(rope: RopeSettings, base: float, head_dim: int, rules: RopeRules) -> Json:
    """`rope_parameters` of p-RoPE.

    Raises:
        CannotExpress: the family has none, or a scaling that transformers does not combine with it.
    """
    if PROPORTIONAL not in rules.types:
        raise CannotExpress(
            ["rope partial=proportional: in this family transformers has no rope_type=proportional"]
        )
    if isinstance(rope, NtkRope):
        base = ntk_base(base, rope.factor, head_dim)
    elif not isinstance(rope, Rope | LinearRope):
        raise CannotExpress(
            [
                f"rope scaling={rope.scaling} with partial=proportional: transformers combines it only with none, "
                "linear and ntk"
            ]
        )
    written: Json = {"rope_type": PROPORTIONAL, "rope_theta": base, PARTIAL: rope.rotary_share}
    return written | ({"factor": rope.factor} if isinstance(rope, LinearRope) else {})


def refuse_slices(rope: RopeSettings, rules: RopeRules) -> None:
    """Raises CannotExpress for an ordinary partial rotation in a family that turns whole heads."""
    if rope.rotary_share != 1.0 and not rules.slices:
        raise CannotExpress(
            [
                f"rope rotary_share={rope.rotary_share:g} with partial=ordinary: in this family transformers turns "
                "whole heads"
            ]
        )
