"""The composition root: configuration, schedule, loop, checkpoints, evaluation, records, report.

The files beside this one are the run itself: `__main__` -> `start` -> `job` -> `build` -> `loop` -> `step` ->
`trainer` -> `objective`.
"""
