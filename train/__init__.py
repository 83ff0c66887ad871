"""The composition root: configuration, schedule, loop, checkpoints, evaluation, logs, report."""
