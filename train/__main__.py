"""`python -m train KEY=VALUE ...`, alone or under torchrun, deepspeed or srun.

The main rank reports all mistakes in the configuration together, one line each, before anything starts. The
exit status is then 2; it is 1 if a started run failed, and 75 if a signal stopped it before its end and it saved.
"""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import os
import sys

from train.health.checkout import refuse_strangers, version

refuse_strangers()

from data.interrupt import end_at_once, end_without_a_line
from data.printable import print_result

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
from train.configuration.room import room_problems
from train.configuration.schema import RunConfig, run_folder
from train.configuration.typed import still_judged
from train.health.exit_status import refuse, refuse_alone
from train.schedule.stages import build_schedule

# Flags that need no composed configuration.
_ANSWERED = {"--help", "--version"}
# Flags that check the configuration and start no run.
_JUDGED = {"--print", "--check", "--folder"}


def main(arguments: list[str]) -> int:
    """Composes and validates the configuration, then runs. Returns the exit status."""
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
        machine = room_problems(config)
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
    # torch and DeepSpeed are imported for a run only: importing them takes most of the start time.
    from train.start import start

    return start(
        config,
        found,
        here,
        preflight_only="--preflight" in flags,
        own_files=composed.origins.texts,
    )


def _answer(options: Options) -> str:
    """Returns the text of --help, --version or --shell-completion.

    Raises:
        ValueError: there is no such help topic, or the folder of --config-dir is not valid.
    """
    own = own_folder(options.own, start_folder())
    if "--help" in options.flags:
        return help_text(options.arguments, own)
    if "--version" in options.flags:
        return f"ropewalk {version()}\n"
    return bash_completion(own)


def _say_sound(config: RunConfig, options: Options, machine: list[str]) -> int:
    """Prints the output of `--check` for a valid run; warnings, also about this machine, do not change the status."""
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
    """Prints the default schedule and its tokens if the command line chose none."""
    schedule, _ = build_schedule(config)
    assert schedule is not None, "validated before"
    own = own_folder(options.own, start_folder())
    if note := default_schedule_note(options.arguments, config, schedule, groups(own)["schedule"]):
        _note([note])


def say(text: str) -> int:
    """Writes `text` to stdout on the main rank; returns the exit status, 1 if it cannot be written."""
    failure = print_result(text) if launched_rank() == 0 else ""
    if failure:
        _note([f"train: {failure}"])
    return 1 if failure else 0


def _note(lines: list[str]) -> None:
    """Writes lines to stderr on the main rank."""
    if launched_rank() == 0:
        sys.stderr.write("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
