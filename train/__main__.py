"""`python -m train KEY=VALUE ...`, alone or under torchrun, deepspeed or srun.

All mistakes in the configuration are reported together by the main rank, one line each, before anything
starts; the exit status is 2 then, 1 where a run that had started failed, and 75 where it was asked to stop
before its end and saved.
"""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import os
import sys

from train.health.checkout import refuse_strangers, version

refuse_strangers()

from data.interrupt import end_at_once, end_without_a_line

if __name__ == "__main__":
    # Of several ranks the first one writes the line.
    end_at_once("train: stopped before the run began" if os.environ.get("RANK", "0") == "0" else "")

from parallel.launcher import (
    launch_problems,
    launched_local_rank,
    launched_rank,
    launched_world_size,
)
from train.configuration import validate
from train.configuration.completion import bash_completion
from train.configuration.compose import compose_all, to_yaml
from train.configuration.description import default_schedule_note, describe_run
from train.configuration.flags import Options, read_options
from train.configuration.groups import groups, own_folder
from train.configuration.help_text import help_text
from train.configuration.launcher_arguments import without_launcher_arguments
from train.configuration.paths import start_folder
from train.configuration.schema import RunConfig, run_folder
from train.configuration.typed import still_judged
from train.health.exit_status import refuse, refuse_alone
from train.schedule.stages import build_schedule

# Of these, nothing is composed.
_ANSWERED = {"--help", "--version"}
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
    options = read_options(arguments)
    if options.mistakes:
        return refuse(options.mistakes)
    flags = options.flags
    try:
        answer = _answer(options) if flags & _ANSWERED or options.shell else ""
    except ValueError as error:
        return refuse([str(error)])
    if answer:
        return say(answer)
    composed = compose_all(options.arguments, options.own)
    config, found, wrong = composed.config, composed.mistakes, composed.wrong
    if config is not None and "--print" in flags and not found:
        return say(to_yaml(config))
    here, machine = [], []
    if config is not None:
        rules = validate.rules(config, launched_world_size(), wrong)
        found = found + [composed.origins.named(line) for line in rules]
        here = still_judged(validate.files(config), wrong)
        machine = validate.room_problems(config)
    if flags & _JUDGED:
        if found or here:
            return refuse(found + here)
        assert config is not None, "the configuration has no mistake"
        if "--folder" in flags:
            return say(f"{run_folder(config)}\n")
        return _say_sound(config, options, machine)
    here += machine
    if (found or here) and launched_world_size() == 1:
        return refuse(found + here)
    if config is not None and not found:
        _note_default_schedule(config, options)
    # Until the run listens (train/health/stop_signal.py), while ranks wait for each other inside libraries.
    end_without_a_line()
    # torch and DeepSpeed are imported for a run only: they are most of the seconds that a start takes.
    from train.start import start

    return start(
        config,
        found,
        here,
        preflight_only="--preflight" in flags,
        own_files=composed.origins.texts,
    )


def _answer(options: Options) -> str:
    """What is said of no run at all.

    Raises:
        ValueError: help has no such topic, or the folder of --config-dir does not serve.
    """
    own = own_folder(options.own, start_folder())
    if "--help" in options.flags:
        return help_text(options.arguments, own)
    if "--version" in options.flags:
        return f"ropewalk {version()}\n"
    return bash_completion(own)


def _say_sound(config: RunConfig, options: Options, machine: list[str]) -> int:
    """The answer of `--check`: what the run is; what speaks against it, and against this machine, fails nothing."""
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    _note_default_schedule(config, options)
    notes = [f"warning: {line}" for line in validate.warnings(config, schedule)]
    notes += [f"this machine, not the configuration: {line}" for line in machine]
    _note(notes)
    described = describe_run(config, schedule, launched_world_size())
    lines = [f"{config.run_name}: the configuration is sound", *(f"  {line}" for line in described)]
    return say("".join(f"{line}\n" for line in lines))


def _note_default_schedule(config: RunConfig, options: Options) -> None:
    """Say which schedule runs, and for how many tokens, where the command line chose none."""
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    own = own_folder(options.own, start_folder())
    if note := default_schedule_note(options.arguments, config, schedule, groups(own)["schedule"]):
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
    sys.exit(main(sys.argv[1:]))
