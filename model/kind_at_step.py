"""The tensors and limits that all layers of one kind share in one forward, made from `AtStep`.

Shape letters: T tokens.
"""

from dataclasses import dataclass, replace

import torch

from model.at_step import AtStep
from model.config import ModelConfig
from model.layer_pattern import LayerSpec
from model.norm import statistics_dtype
from model.packed_layout import PackedLayout
from model.position.fourier_table import FourierRotation, FourierSource, make_fourier
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

    def of_layer(self, layer: int, groups: range) -> "KindAtStep":
        """The settings of one layer: they differ between layers of a kind under FoPE only.

        layer: its global index. groups: the key/value heads held here, of all.
        """
        rotation = self.positioning.rotation
        if not isinstance(rotation, FourierRotation):
            return self
        return replace(
            self, positioning=replace(self.positioning, rotation=rotation.of_layer(layer, groups))
        )


def make_kinds(
    at: AtStep, kinds: list[str], layout: PackedLayout, config: ModelConfig, dtype: torch.dtype
) -> dict[str, KindAtStep]:
    """The settings of `kinds` for the tokens of `layout`; kinds that turn alike share one rotation.

    dtype: that in which the model computes.
    """
    made: list[tuple[RopeSettings, tuple[int, ...], Rotation | FourierRotation]] = []
    found: dict[str, KindAtStep] = {}
    for kind in kinds:
        spec, reach = at.specs[kind], at.reach_of(kind)
        rotation = None
        if spec.rope is not None:
            seen = _lengths_seen(at, spec)
            alike = (r for rope, lengths, r in made if (rope, lengths) == (spec.rope, seen))
            rotation = next(alike, None) or _rotation(at, spec.rope, seen, layout, config, dtype)
            made.append((spec.rope, seen, rotation))
        factors_T = None
        if spec.position_scale is not None:
            tokens = TokensInPlace(
                layout.positions_T,
                layout.place_T,
                reach,
                at.length if spec.position_scale.reads_length else 0,
            )
            factors_T = spec.position_scale.factors(tokens).to(statistics_dtype(dtype))
        found[kind] = KindAtStep(reach, Positioning(rotation, factors_T))
    return found


def _lengths_seen(at: AtStep, spec: LayerSpec) -> tuple[int, ...]:
    """The largest distance that a layer sees at each length trained at, in tokens; empty where nothing reads it."""
    if spec.rope is None or spec.rope.fourier is None:
        return ()
    most = spec.reach.limit
    return tuple(length if most is None else min(length, most) for length in at.trained_lengths)


def _rotation(
    at: AtStep,
    rope: RopeSettings,
    seen: tuple[int, ...],
    layout: PackedLayout,
    config: ModelConfig,
    dtype: torch.dtype,
) -> Rotation | FourierRotation:
    positions_T, head_dim = layout.positions_T, config.head_dim
    length = at.length if rope.reads_length else 0
    if rope.fourier is None:
        return make_rotation(
            positions_T, at.rope_base, head_dim=head_dim, dtype=dtype, rope=rope, length=length
        )
    source = FourierSource(rope, at.rope_base, head_dim, config.num_kv_heads, seen, length)
    return make_fourier(positions_T, source, dtype)
