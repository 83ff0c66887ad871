"""Warnings about rotations that do not reach as far as their layers see: advice from arXiv 2405.14591.

A layer that sees the whole document is judged by the stage's length, a windowed one by its window, a chunked one by its
chunk; the frequencies are those that it uses at the end of the stage. Only the layers that see farthest are judged: a
short window beside full layers needs no more than it has. What an imported model was trained for is not judged.
"""

import math
from dataclasses import dataclass

from model.layer_pattern import LayerSpec, layer_kinds
from model.position.advice.base_bound import reach
from model.position.advice.bound_table import tabled_bound
from model.position.advice.frequencies import head_radians
from model.position.rope import Rope
from model.position.settings import RopeSettings
from train.configuration.schema import RunConfig
from train.schedule.stages import Schedule, Stage

# Longer reaches are not computed: --check would take seconds.
_MOST_TOKENS = 2**22


@dataclass(frozen=True)
class _Judged:
    """Kinds of layers that rotate alike and see equally far, at the end of a stage.

    base: of their rotation. seen: tokens that they see. length: that the stage's positions reach. beside_nope: whether
    layers without rotation see as far.
    """

    stage: str
    kinds: tuple[str, ...]
    rope: RopeSettings
    base: float
    seen: int
    length: int
    beside_nope: bool


def bound_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns a warning for every stage and rotation that separates keys less far than its layers see."""
    head_dim = config.model.head_dim
    found = []
    for stage in schedule.stages:
        for one in _judged(config, schedule, stage):
            radians_P = head_radians(
                one.rope, one.base, head_dim, length=one.length, trained=one.seen
            )
            reached = reach(radians_P, min(one.seen, _MOST_TOKENS))
            if reached < min(one.seen, _MOST_TOKENS):
                found.append(_warning(one, reached, head_dim))
    return found


def _judged(config: RunConfig, schedule: Schedule, stage: Stage) -> list[_Judged]:
    """The rotations of the layers that see farthest in a stage, but for those that the model was trained with."""
    point = schedule.at_end_of(stage)
    length, specs = point.lengths[-1], point.at.specs
    limits = {kind: spec.reach.limit or math.inf for kind, spec in specs.items()}
    farthest = [kind for kind in specs if limits[kind] == max(limits.values())]
    alike: dict[str, list[str]] = {}
    for kind in farthest:
        if not _was_trained(specs[kind], config, stage, length):
            alike.setdefault(repr(specs[kind].rope), []).append(kind)
    return [
        _Judged(
            stage=stage.name,
            kinds=tuple(kinds),
            rope=rope,
            base=rope.base_of(stage.base.last),
            seen=int(min(limits[kinds[0]], length)),
            length=length,
            beside_nope=any(specs[kind].rope is None for kind in farthest),
        )
        for kinds in alike.values()
        if (rope := specs[kinds[0]].rope) is not None
    ]


def _was_trained(spec: LayerSpec, config: RunConfig, stage: Stage, length: int) -> bool:
    """Whether the model came with this rotation and a context of this length: it is evidence, the bound an argument."""
    before = layer_kinds(config.model)[spec.kind].rope
    if config.schedule.start_length < length or spec.rope != before or spec.rope is None:
        return False
    return spec.rope.base > 0.0 or stage.base.last == config.schedule.start_base


def _warning(one: _Judged, reached: int, head_dim: int) -> str:
    """One line: what the rotation reaches, the bound, and what to do."""
    scaled = "" if isinstance(one.rope, Rope) else f" with scaling={one.rope.scaling}"
    key = f"model.kinds.{one.kinds[0]}"
    base_key = f"{key}.rope.base" if one.rope.base else f"schedule.stages.{one.stage}.rope_base"
    bound = tabled_bound(one.seen, head_dim) if _is_plain(one.rope) else None
    bases, way_out = "", f"a higher base ({base_key}); ropewalk advise shows what bases reach"
    if bound is not None and one.base < bound.safe:
        first, safe = _upwards(bound.first), _upwards(bound.safe)
        some = f"from {first:g} on some bases reach {bound.length:,}, " if first < safe else ""
        bases, way_out = f"; {some}from {safe:g} on all", f"{base_key}={safe:g}"
        bases += "" if some else f" bases reach {bound.length:,}"
    if one.rope.pairs(head_dim) == 1:
        way_out = (
            "wider heads (model.head_dim): one pair turns by a radian a token, whatever the base"
        )
    elif one.beside_nope:
        way_out = (
            f"a window of what it reaches ({key}.window={reached}): layers without rotation find what is farther, and "
            "a higher base beside them lost retrieval (arXiv 2501.18795)"
        )
    return (
        f"stage {one.stage}: base {one.base:g}{scaled} separates similar from random keys only up to {reached:,} of "
        f"the {one.seen:,} tokens that {', '.join(one.kinds)} layers see (advice of arXiv 2405.14591, no limit: Llama "
        f"3 works below its bound){bases}; consider {way_out}"
    )


def _is_plain(rope: RopeSettings) -> bool:
    """Whether whole heads rotate by RoPE's own frequencies, for which the bound is tabled."""
    plain = isinstance(rope, Rope) and rope.fourier is None and not rope.resonance
    return plain and rope.rotary_share == 1.0


def _upwards(base: float) -> float:
    """A base with three digits, rounded up."""
    unit = 10.0 ** (math.floor(math.log10(base)) - 2)
    return float(f"{math.ceil(base / unit) * unit:.3g}")
