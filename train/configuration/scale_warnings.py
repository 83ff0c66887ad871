"""Warnings about scales of queries that have no effect yet, or stop growing."""

from collections import defaultdict

from model.position.scales.ssmax import SsmaxScale
from train.schedule.stages import Schedule


def scale_warnings(schedule: Schedule) -> list[str]:
    """Returns warnings about scales whose factor is 1 in all stages that have them, or is bounded by the reach."""
    points = [schedule.at(stage.start) for stage in schedule.stages]
    acts: dict[str, list[bool]] = defaultdict(list)
    limits: dict[str, int] = {}
    for point in points:
        for kind, spec in point.at.specs.items():
            if spec.position_scale is not None:
                acts[kind].append(not spec.position_scale.is_one_within(point.lengths[-1]))
            limit = spec.reach.limit
            if isinstance(spec.position_scale, SsmaxScale) and limit is not None:
                limits[kind] = limit
    farthest = max(point.lengths[-1] for point in points)
    return [
        f"the position_scale of {kind} layers is 1 for all positions of this run, which reach {farthest:,} tokens: it "
        "changes nothing before a longer stage; drop it, or give it a shorter length"
        for kind, found in acts.items()
        if not any(found)
    ] + [
        f"model.kinds.{kind}.position_scale: ssmax grows with the number of visible keys, which is at most {limit:,} "
        "in these layers; all later tokens have the same factor (arXiv 2501.19399 has it on full attention)"
        for kind, limit in limits.items()
    ]
