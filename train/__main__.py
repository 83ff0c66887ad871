"""`python -m train KEY=VALUE ...`, alone or under torchrun, deepspeed or srun.

All mistakes in the configuration are reported together by the main rank, one line each, before anything
starts; the exit status is 2 then, 1 where a run that had started failed, and 75 where it was asked to stop
before its end and saved.
"""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import sys
from pathlib import Path

from train.health.checkout import strangers

_STRANGERS = strangers(Path(__file__).resolve().parent.parent)
if _STRANGERS:
    sys.exit("\n".join(_STRANGERS))

from parallel.launcher import launch_problems, launched_rank, launched_world_size
from train import build, job
from train.configuration import validate
from train.configuration.compose import ConfigMistakes, compose_run, to_yaml
from train.configuration.help_text import help_text
from train.configuration.schema import PreflightConfig, RunConfig
from train.health.exit_status import refuse, refuse_alone
from train.preflight.roll_call import call_roll

_FLAGS = ("--help", "--print", "--check", "--folder", "--preflight")


def main(arguments: list[str]) -> int:
    """Compose, validate, run. Returns the exit status."""
    launched_wrong = launch_problems()
    if launched_wrong:
        return refuse_alone("; ".join(launched_wrong))
    flags = {argument for argument in arguments if argument.startswith("-")}
    unknown = flags - {"-h", *_FLAGS}
    if unknown:
        return refuse([f"{flag}: unknown; there are {', '.join(_FLAGS)}" for flag in unknown])
    if flags & {"-h", "--help"}:
        return say(help_text())
    config, found = _compose([argument for argument in arguments if argument not in flags])
    if config is not None and "--print" in flags and not found:
        return say(to_yaml(config))
    here = []
    if config is not None:
        found = found + validate.rules(config, launched_world_size())
        here = validate.places(config)
    if launched_world_size() > 1 and not flags & {"--print", "--check", "--folder"}:
        return _start_together(config, found, here, alone="--preflight" in flags)
    if found or here:
        return refuse(found + here)
    assert config is not None
    if "--check" in flags:
        return say(f"{config.run_name}: the configuration is sound\n")
    if "--folder" in flags:
        return say(f"{build.run_folder(config)}\n")
    return job.run_preflight(config) if "--preflight" in flags else job.run_job(config)


def _compose(arguments: list[str]) -> tuple[RunConfig | None, list[str]]:
    """The run, or what is left of it without the mistakes."""
    try:
        return compose_run(arguments), []
    except ConfigMistakes as error:
        return error.rest, error.mistakes


def _start_together(
    config: RunConfig | None, found: list[str], here: list[str], *, alone: bool
) -> int:
    """Meet the other ranks whatever was found: none may leave while the others wait for it.

    found: mistakes of the configuration; here: what is missing on this host, which the preflight tells with the
    rest.
    """
    if config is not None and not found:
        try:
            job.choose_hardware(config)
        except ValueError as error:
            found = [str(error)]
    preflight = PreflightConfig() if config is None else config.preflight
    if found or not (preflight.enabled or alone):
        found = found + here
    try:
        meeting, problems = call_roll(found, preflight.join_seconds)
    except ValueError as error:
        return refuse_alone(str(error))
    if problems:
        return refuse(problems)
    assert config is not None
    run = job.run_preflight if alone else job.run_job
    return run(config, meeting)


def say(text: str) -> int:
    """Write `text` on the main rank; the exit status of having done so."""
    if launched_rank() == 0:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
