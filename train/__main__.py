"""`python -m train KEY=VALUE ...`, alone or under torchrun, deepspeed or srun.

All mistakes in the configuration are reported together by the main rank, one line each, before anything
starts; the exit status is 2 then, 1 where a run that had started failed, and 75 where it was asked to stop
before its end and saved.
"""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import signal
import sys

from train.health.checkout import refuse_strangers

refuse_strangers()

from parallel.launcher import (
    launch_problems,
    launched_local_rank,
    launched_rank,
    launched_world_size,
)
from train.configuration import validate
from train.configuration.compose import ConfigMistakes, compose_run, to_yaml
from train.configuration.description import default_schedule_note, describe_run
from train.configuration.groups import groups
from train.configuration.help_text import help_text
from train.configuration.launcher_arguments import without_launcher_arguments
from train.configuration.schema import RunConfig, run_folder
from train.configuration.typed import still_judged
from train.health.exit_status import refuse, refuse_alone
from train.schedule.stages import build_schedule

_FLAGS = ("--help", "--print", "--check", "--folder", "--preflight")
# Nothing is started for these.
_JUDGED = {"--print", "--check", "--folder"}


def main(arguments: list[str]) -> int:
    """Compose, validate, run. Returns the exit status."""
    launched_wrong = launch_problems()
    if launched_wrong:
        return refuse_alone("; ".join(launched_wrong))
    arguments, of_launcher = without_launcher_arguments(arguments, launched_local_rank())
    if of_launcher:
        return refuse(of_launcher)
    flags = {argument for argument in arguments if argument.startswith("-")}
    unknown = flags - {"-h", *_FLAGS}
    if unknown:
        return refuse([f"{flag}: unknown; there are {', '.join(_FLAGS)}" for flag in unknown])
    if flags & {"-h", "--help"}:
        return _help([argument for argument in arguments if argument not in flags])
    config, found, wrong = _compose([argument for argument in arguments if argument not in flags])
    if config is not None and "--print" in flags and not found:
        return say(to_yaml(config))
    here, machine = [], []
    if config is not None:
        found = found + validate.rules(config, launched_world_size(), wrong)
        here = still_judged(validate.files(config), wrong)
        machine = validate.room_problems(config)
    if flags & _JUDGED:
        if found or here:
            return refuse(found + here)
        assert config is not None, "the configuration has no mistake"
        if "--folder" in flags:
            return say(f"{run_folder(config)}\n")
        return _say_sound(config, arguments, machine)
    here += machine
    if (found or here) and launched_world_size() == 1:
        return refuse(found + here)
    if config is not None and not found:
        _note_default_schedule(config, arguments)
    # torch and DeepSpeed are imported for a run only: they are most of the seconds that a start takes.
    from train.start import start

    return start(config, found, here, preflight_only="--preflight" in flags)


def _compose(arguments: list[str]) -> tuple[RunConfig | None, list[str], frozenset[str]]:
    """The run, or what is left of it without the mistakes; these; and the keys whose values were replaced."""
    try:
        return compose_run(arguments), [], frozenset()
    except ConfigMistakes as error:
        return error.rest, error.mistakes, error.wrong


def _help(topics: list[str]) -> int:
    """The page of `--help`, or the parts that are asked for."""
    try:
        return say(help_text(topics))
    except ValueError as error:
        return refuse([str(error)])


def _say_sound(config: RunConfig, arguments: list[str], machine: list[str]) -> int:
    """The answer of `--check`: what the run is; what speaks against it, and against this machine, fails nothing."""
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    _note_default_schedule(config, arguments)
    notes = [f"warning: {line}" for line in validate.warnings(config, schedule)]
    notes += [f"this machine, not the configuration: {line}" for line in machine]
    _note(notes)
    described = describe_run(config, schedule, launched_world_size())
    lines = [f"{config.run_name}: the configuration is sound", *(f"  {line}" for line in described)]
    return say("".join(f"{line}\n" for line in lines))


def _note_default_schedule(config: RunConfig, arguments: list[str]) -> None:
    """Say which schedule runs, and for how many tokens, where the command line chose none."""
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    if note := default_schedule_note(arguments, config, schedule, groups()["schedule"]):
        _note([note])


def say(text: str) -> int:
    """Write `text` on the main rank; the exit status of having done so."""
    if launched_rank() == 0:
        sys.stdout.write(text)
    return 0


def _note(lines: list[str]) -> None:
    """Write lines beside the answer, on the main rank."""
    if launched_rank() == 0:
        sys.stderr.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        # Until the run listens (train/health/stop_signal.py), Ctrl-C ends this process without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
