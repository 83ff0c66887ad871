"""`python -m train KEY=VALUE ...`, alone or under torchrun, deepspeed or srun.

All mistakes in the configuration are reported together by the main rank, one line each, before anything
starts; the exit status is 2 then, 1 where a run that had started failed, and 75 where it was asked to stop
before its end and saved.
"""

# ruff: noqa: E402  (the packages are looked at before they are imported)
import sys
from pathlib import Path

from train.origin import strangers

_STRANGERS = strangers(Path(__file__).resolve().parent.parent)
if _STRANGERS:
    sys.exit("\n".join(_STRANGERS))

from parallel.mesh import launched_rank, launched_world_size
from train import job, validate
from train.compose import ConfigMistakes, compose_run, to_yaml
from train.help_text import help_text
from train.refusal import refuse


def main(arguments: list[str]) -> int:
    """Compose, validate, run. Returns the exit status."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    unknown = flags - {"-h", "--help", "--print", "--check"}
    if unknown:
        return refuse(
            [f"{flag}: unknown; there are --help, --print and --check" for flag in unknown]
        )
    if flags & {"-h", "--help"}:
        return say(help_text())
    try:
        config = compose_run([argument for argument in arguments if argument not in flags])
    except ConfigMistakes as error:
        rest = validate.problems(error.rest, launched_world_size()) if error.rest else []
        return refuse(error.mistakes + rest)
    if "--print" in flags:
        return say(to_yaml(config))
    found = validate.problems(config, launched_world_size())
    if found:
        return refuse(found)
    if "--check" in flags:
        return say(f"{config.run_name}: the configuration is sound\n")
    return job.run_job(config)


def say(text: str) -> int:
    """Write `text` on the main rank; the exit status of having done so."""
    if launched_rank() == 0:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
