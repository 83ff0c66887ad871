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
from train.configuration import validate
from train.configuration.compose import ConfigMistakes, compose_run, to_yaml
from train.configuration.help_text import help_text
from train.configuration.schema import RunConfig, run_folder
from train.health.exit_status import refuse, refuse_alone

_FLAGS = ("--help", "--print", "--check", "--folder", "--preflight")
# Nothing is started for these.
_JUDGED = {"--print", "--check", "--folder"}


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
    config, found, wrong = _compose([argument for argument in arguments if argument not in flags])
    if config is not None and "--print" in flags and not found:
        return say(to_yaml(config))
    here = []
    if config is not None:
        found = found + validate.rules(config, launched_world_size(), wrong)
        here = validate.places(config)
    only_judged = bool(flags & _JUDGED)
    if (found or here) and (only_judged or launched_world_size() == 1):
        return refuse(found + here)
    if only_judged:
        assert config is not None, "the configuration has no mistake"
        sound = f"{config.run_name}: the configuration is sound"
        return say(f"{sound if '--check' in flags else run_folder(config)}\n")
    # torch and DeepSpeed are imported for a run only: they are most of the seconds that a start takes.
    from train.start import start

    return start(config, found, here, preflight_only="--preflight" in flags)


def _compose(arguments: list[str]) -> tuple[RunConfig | None, list[str], frozenset[str]]:
    """The run, or what is left of it without the mistakes; these; and the keys whose values were replaced."""
    try:
        return compose_run(arguments), [], frozenset()
    except ConfigMistakes as error:
        return error.rest, error.mistakes, error.wrong


def say(text: str) -> int:
    """Write `text` on the main rank; the exit status of having done so."""
    if launched_rank() == 0:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
