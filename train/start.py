"""Starts a run with a validated configuration: one process alone, or all ranks of a launcher together."""

from collections.abc import Mapping
from functools import partial

from parallel.launcher import launched_world_size
from train import job
from train.configuration.schema import PreflightConfig, RunConfig
from train.health.exit_status import refuse, refuse_alone
from train.preflight.roll_call import call_roll


def start(
    config: RunConfig | None,
    found: list[str],
    here: list[str],
    *,
    preflight_only: bool,
    own_files: Mapping[str, str],
) -> int:
    """Runs the job, or only the preflight. Returns the exit status.

    found: mistakes of the configuration. here: what is missing on this host. A single process has neither.
    Several ranks meet even with mistakes: none may exit while others wait for it. The preflight then reports
    what is missing on a host. own_files: texts of the user's own configuration files.
    """
    run = job.run_preflight if preflight_only else partial(job.run_job, own_files=own_files)
    if launched_world_size() == 1:
        assert config is not None, "mistakes were refused before"
        return run(config)
    if config is not None and not found:
        try:
            job.choose_hardware(config)
        except ValueError as error:
            found = [str(error)]
    preflight = PreflightConfig() if config is None else config.preflight
    if found or not (preflight.enabled or preflight_only):
        found = found + here
    try:
        meeting, problems = call_roll(found, preflight.join_seconds, None if found else config)
    except ValueError as error:
        return refuse_alone(str(error))
    if problems:
        return refuse(problems)
    assert config is not None, "a rank without a configuration has mistakes"
    return run(config, meeting)
