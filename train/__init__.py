"""Puts a run together: configuration, schedule, loop, checkpoints, evaluation, records, report.

Order of calls in the files of this folder: `__main__` -> `start` -> `job` -> `build` -> `loop` -> `step` ->
`trainer` -> `objective`.
"""
