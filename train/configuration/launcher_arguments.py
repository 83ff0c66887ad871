"""Handles arguments that DeepSpeed's launcher adds, and options of scripts written for DeepSpeed.

`deepspeed --num_gpus 2 --module train KEY=VALUE` starts every rank as `python -m train --local_rank=N KEY=VALUE`.
"""

from collections.abc import Sequence

from data.printable import one_line

_LOCAL_RANK = ("--local_rank", "--local-rank")
_CONFIGURATION = ("--deepspeed", "--deepspeed_config", "--deepspeed-config")


def without_launcher_arguments(
    arguments: Sequence[str], local_rank: int
) -> tuple[list[str], list[str]]:
    """Returns the arguments without those for DeepSpeed, and the mistakes in the latter, one line each.

    local_rank: the value of LOCAL_RANK, which the run uses.
    """
    rest: list[str] = []
    wrong: list[str] = []
    configured = False
    waiting = iter(enumerate(arguments))
    for number, argument in waiting:
        name, is_given, value = argument.partition("=")
        following = next(iter(arguments[number + 1 : number + 2]), "")
        if name in _LOCAL_RANK:
            if not is_given:
                value = following
                next(waiting, None)
            if value != str(local_rank):
                wrong.append(
                    f"{one_line(name)}={one_line(value)}: LOCAL_RANK is {local_rank}; the launcher sets both"
                )
        elif name in _CONFIGURATION:
            configured = True
            if not is_given and following and "=" not in following and following[0] not in "-+~":
                next(waiting, None)  # its file
        else:
            rest.append(argument)
    if configured:
        wrong.append(
            "--deepspeed, --deepspeed_config: DeepSpeed is configured by parallel.zero_stage, train.precision and "
            "optimizer.*; leave them out, and start with `ropewalk deepspeed` or launch/deepspeed.sh"
        )
    return rest, wrong
