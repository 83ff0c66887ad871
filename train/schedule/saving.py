"""How often a run saves: `checkpoint.every_steps`, or what `auto` stands for."""

from train.configuration.schema import RunConfig

# `auto` saves a hundred times in a run, and loses at most this many steps of a long one.
SAVES = 100
MOST_STEPS = 500


def steps_between_checkpoints(config: RunConfig) -> int:
    """Optimizer steps between two checkpoints; 0: none inside a stage.

    `auto` follows from the schedule alone, so every start of a run takes the same steps: `train.max_steps` and the
    clock have no part in it.
    """
    every = config.checkpoint.every_steps
    if every != "auto":
        return every
    steps = sum(stage.num_steps for stage in config.schedule.stages.values())
    return min(MOST_STEPS, max(1, steps // SAVES))
