"""How often a run saves: `checkpoint.every_steps`, with `auto` resolved."""

from train.configuration.schema import RunConfig

# `auto` saves a hundred times in a run, and at least once in MOST_STEPS steps.
SAVES = 100
MOST_STEPS = 500


def steps_between_checkpoints(config: RunConfig) -> int:
    """Returns the optimizer steps between two checkpoints; 0: none inside a stage.

    `auto` depends on the schedule alone, not on `train.max_steps` or time, so every start of a run saves at the same
    steps.
    """
    every = config.checkpoint.every_steps
    if every != "auto":
        return every
    steps = sum(stage.num_steps for stage in config.schedule.stages.values())
    return min(MOST_STEPS, max(1, steps // SAVES))
