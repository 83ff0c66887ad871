"""The tensors and limits that all layers of one kind share in one forward, made from `AtStep`.

Shape letters: T tokens.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.at_step import AtStep
from model.position.config import RopeConfig
from model.position.rotation import Rotation, make_rotation


@dataclass(frozen=True, eq=False)
class KindAtStep:
    """One kind of layer at one step.

    window: number of keys a token sees, itself included; None: all of its document. rotation: of the tokens held
    here; None: the layers do not rotate.
    """

    window: int | None
    rotation: Rotation | None = None


def make_kinds(
    at: AtStep, kinds: list[str], positions_T: Tensor, *, head_dim: int, dtype: torch.dtype
) -> dict[str, KindAtStep]:
    """The settings of `kinds` for tokens at `positions_T` (integers); kinds that turn alike share one rotation.

    dtype: that in which the model computes.
    """
    make = partial(make_rotation, positions_T, at.rope_base, head_dim=head_dim, dtype=dtype)
    made: list[tuple[RopeConfig, Rotation]] = []
    found: dict[str, KindAtStep] = {}
    for kind in kinds:
        spec = at.specs[kind]
        rotation = next((rotation for known, rotation in made if known == spec.rope), None)
        if spec.rope is not None and rotation is None:
            rotation = make(rope=spec.rope)
            made.append((spec.rope, rotation))
        found[kind] = KindAtStep(spec.window, rotation)
    return found
