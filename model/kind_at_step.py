"""The tensors and limits that all layers of one kind share in one forward, made from `AtStep`.

Shape letters: T tokens.
"""

from dataclasses import dataclass
from functools import partial

import torch

from model.at_step import AtStep
from model.norm import statistics_dtype
from model.packed_layout import PackedLayout
from model.position.positioning import Positioning
from model.position.rotation import Rotation, make_rotation
from model.position.scales.scale import TokensInPlace
from model.position.settings import RopeSettings
from model.reach import Reach


@dataclass(frozen=True, eq=False)
class KindAtStep:
    """One kind of layer at one step.

    reach: how far a token sees. positioning: what the positions of the tokens held here do to their queries and keys.
    """

    reach: Reach
    positioning: Positioning


def make_kinds(
    at: AtStep, kinds: list[str], layout: PackedLayout, *, head_dim: int, dtype: torch.dtype
) -> dict[str, KindAtStep]:
    """The settings of `kinds` for the tokens of `layout`; kinds that turn alike share one rotation.

    dtype: that in which the model computes.
    """
    make = partial(make_rotation, layout.positions_T, at.rope_base, head_dim=head_dim, dtype=dtype)
    made: list[tuple[RopeSettings, Rotation]] = []
    found: dict[str, KindAtStep] = {}
    for kind in kinds:
        spec = at.specs[kind]
        rotation = next((rotation for known, rotation in made if known == spec.rope), None)
        if spec.rope is not None and rotation is None:
            length = at.length if spec.rope.reads_length else 0
            rotation = make(rope=spec.rope, length=length)
            made.append((spec.rope, rotation))
        factors_T = None
        if spec.position_scale is not None:
            tokens = TokensInPlace(
                layout.positions_T,
                layout.place_T,
                spec.reach,
                at.length if spec.position_scale.reads_length else 0,
            )
            factors_T = spec.position_scale.factors(tokens).to(statistics_dtype(dtype))
        found[kind] = KindAtStep(spec.reach, Positioning(rotation, factors_T))
    return found
