"""Faults of scaled queries, planted as those of `faults.py`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.at_step import AtStep
from model.kind_at_step import KindAtStep, make_kinds
from model.position.positioning import Positioning
from parallel.sequence.layout import ShardedLayout
from tests.parity.faults import Fault, Patch, cut_otherwise
from tests.parity.layout_cases import Case

Kinds = dict[str, KindAtStep]


def _factors_of(patch: Patch, wrongly: Callable[[AtStep, ShardedLayout, Any], Kinds]) -> None:
    """Rotations stay; factors of queries are those of the kinds that `wrongly` makes."""

    def made(at: AtStep, kinds: list[str], layout: ShardedLayout, *more: Any) -> Kinds:
        right = make_kinds(at, kinds, layout, *more)
        wrong = wrongly(at, layout, more)
        return {
            kind: replace(
                own,
                positioning=Positioning(
                    own.positioning.rotation, wrong[kind].positioning.query_factors_T
                ),
            )
            for kind, own in right.items()
        }

    patch.setattr("model.transformer.make_kinds", made)


def _placed(patch: Patch, place_of: Callable[[ShardedLayout], Tensor]) -> None:
    def wrongly(at: AtStep, layout: ShardedLayout, more: Any) -> Kinds:
        place_T = place_of(layout)
        moved = replace(layout, place_T=place_T, positions_T=place_T)
        return make_kinds(at, list(at.specs), moved, *more)

    _factors_of(patch, wrongly)


def scale_reads_the_place_in_the_stream(patch: Patch) -> None:
    def in_stream(layout: ShardedLayout) -> Tensor:
        held = layout.dealing.ranges(layout.rank)
        return torch.cat([torch.arange(piece.start, piece.stop) for piece in held])

    _placed(patch, in_stream)


def scale_reads_the_row_on_the_rank(patch: Patch) -> None:
    _placed(patch, lambda layout: torch.arange(layout.local_tokens))


def visible_keys_are_those_of_another_kind(patch: Patch) -> None:
    """The number of keys that SSMax reads is bounded by the other window, or by none."""

    def wrongly(at: AtStep, layout: ShardedLayout, more: Any) -> Kinds:
        names = list(at.specs)
        reaches = [at.specs[name].reach for name in names]
        others = dict(zip(names, [*reaches[1:], reaches[0]], strict=True))
        specs = {
            name: replace(spec, window=others[name].window, chunk=others[name].chunk)
            for name, spec in at.specs.items()
        }
        return make_kinds(replace(at, specs=specs), names, layout, *more)

    _factors_of(patch, wrongly)


def learned_scale_is_missing_in_the_norm(patch: Patch) -> None:
    cut_otherwise(patch, "position_scale", is_owner=False)


SEQUENCE = Case(1, 1, 2, 1, "-", "zigzag", 2, "scaled", "everything")
TENSOR = Case(2, 1, 1, 1, "-", "-", 1, "scaled_llama", "everything")
SCALE_FAULTS = (
    Fault(scale_reads_the_place_in_the_stream, SEQUENCE, False, "loss", "valid tokens"),
    Fault(scale_reads_the_row_on_the_rank, SEQUENCE, False, "loss", "valid tokens"),
    Fault(visible_keys_are_those_of_another_kind, SEQUENCE, False, "loss", "valid tokens"),
    Fault(learned_scale_is_missing_in_the_norm, TENSOR, False, "gradient norm", "loss|layers"),
)
