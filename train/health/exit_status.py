"""Exit statuses of a run, and printing mistakes: one line each, from one rank only."""

import sys
from collections.abc import Sequence

from data.printable import one_line
from parallel.launcher import launched_rank

FAILURE = 1
MISTAKE = 2
# Stopped by a signal before the end, and saved: the same command resumes. (sysexits.h: EX_TEMPFAIL)
STOPPED = 75


def refuse(lines: Sequence[str], status: int = MISTAKE, command: str = "train") -> int:
    """Writes `lines` to stderr on the main rank; returns the exit status. command: the name before them."""
    if launched_rank() == 0:
        count = f"{len(lines)} mistakes" if len(lines) > 1 else "error"
        head = f"{command}: {count}:" + ("\n  " if len(lines) > 1 else " ")
        sys.stderr.write(head + "\n  ".join(map(one_line, lines)) + "\n")
        sys.stderr.flush()
    return status


def refuse_alone(line: str) -> int:
    """Writes a mistake that only this rank has, on any rank; returns the exit status."""
    sys.stderr.write(f"train: rank {launched_rank()}: {one_line(line)}\n")
    sys.stderr.flush()
    return MISTAKE
