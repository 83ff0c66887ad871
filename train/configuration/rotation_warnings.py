"""Warnings about rotations that scale twice, or not at all in this run."""

from model.layer_pattern import expand_pattern
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.longrope import LongRope
from model.position.settings import ScaledRope
from train.configuration.schema import RunConfig
from train.schedule.stages import Schedule


def rotation_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns warnings about bases and lengths that do not suit the scaling of layers."""
    return _bases(config, schedule) + _lengths(schedule)


def _bases(config: RunConfig, schedule: Schedule) -> list[str]:
    """Warns of a rising base for layers with scaled frequencies: both lengthen the wavelengths."""
    start, last = config.schedule.start_base, schedule.stages[-1].base.last
    at_end = schedule.at_end_of(schedule.stages[-1]).at.specs
    scaled = {
        spec.kind: spec.rope
        for spec in expand_pattern(config.model)
        if isinstance(spec.rope, ScaledRope)
        and not spec.rope.base
        and at_end[spec.kind].rope == spec.rope
    }
    if not start or last <= 1.001 * start:
        return []
    return [
        f"rope_base rises from {start:g} to {last:g} beside model.kinds.{kind}.rope.scaling={rope.scaling} (factor "
        f"{rope.factor:g}), which stays: wavelengths grow by both; give rope_base=keep, or scaling=none with factor=1, "
        "original_length=0 and checkpoint.allow_changes=[rope_scaling]"
        for kind, rope in scaled.items()
    ]


def _lengths(schedule: Schedule) -> list[str]:
    """Warns of methods that scale above a length that no stage with them exceeds."""
    longest: dict[tuple[str, str, int], int] = {}
    for stage in schedule.stages:
        point = schedule.at(stage.start)
        for kind, spec in point.at.specs.items():
            if isinstance(spec.rope, DynamicNtkRope | LongRope):
                method = (kind, spec.rope.scaling, spec.rope.original_length)
                longest[method] = max(longest.get(method, 0), point.lengths[-1])
    return [
        f"model.kinds.{kind}.rope.original_length={original}: no stage is longer ({length:,} tokens at most), so "
        f"{scaling} trains these layers as below that length; give the length before scaling, or a longer stage"
        for (kind, scaling, original), length in longest.items()
        if length <= original
    ]
