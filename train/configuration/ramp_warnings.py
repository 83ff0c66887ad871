"""Warnings about windows that grow too slowly to reach the end of their ramp."""

from train.configuration.schema import RunConfig, WindowRamp
from train.schedule.stages import Schedule


def ramp_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns a warning for every window whose steps of `per_step` keys do not reach the end within the stage."""
    found = []
    for stage in schedule.stages:
        last = schedule.at_end_of(stage)
        for kind, change in config.schedule.stages[stage.name].kinds.items():
            ramp = change.window
            if not isinstance(ramp, WindowRamp) or not ramp.per_step:
                continue
            end = stage.kinds.end_of_ramp(ramp, schedule.model, kind)
            keys = dict(last.windows)[kind]
            if 0 < keys < min(end, stage.shape.sequence_length):
                found.append(
                    f"schedule.stages.{stage.name}.kinds.{kind}.window.per_step={ramp.per_step:g}: the stage ends at "
                    f"{keys:,} of {end:,} keys, and what follows sees another window at once; give more per_step or "
                    "tokens, or per_step=0 for an even ramp"
                )
    return found
