"""Runs torchrun's agent for `ropewalk torchrun`, without a traceback after a stop signal or a failed rank.

torchrun passes a stop signal on to its ranks, waits, and ends with a traceback and status 1 even if all ranks have
saved. Here the same agent runs in this process, and the exit status is that of the ranks: 75 if they have saved,
2 for a mistake. Options are torchrun's own; SIGUSR1 is a stop signal too, and the default of `--shutdown-timeout`
is 300 seconds.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.run import parse_args, run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SHUTDOWN_SECONDS = 300
# Lines of torch's log that repeat messages of this program or of a rank, by the logger that writes them.
REPEATED = {
    # One thread a rank where OMP_NUM_THREADS is not set; the checks before the first step compare threads and cores.
    "torch.distributed.run": ("\n*****",),
    "torch.distributed.elastic.multiprocessing.api": ("failed (exitcode", "Sending process"),
    "torch.distributed.elastic.agent.server.api": ("Received %s death signal",),
}
# Statuses of train/health/exit_status.py. A rank that ends with one of them has printed the reason.
MISTAKE, STOPPED = 2, 75


def main(words: list[str]) -> int:
    """Run torchrun's agent; return the exit status of its ranks."""
    sys.argv[0] = "ropewalk torchrun"  # the name in torchrun's help and error messages
    options = parse_args(words)  # type: ignore[no-untyped-call]
    if options.nproc_per_node.removeprefix("-").isdecimal() and int(options.nproc_per_node) < 1:
        return _say(f"--nproc-per-node={options.nproc_per_node}: must be at least 1", MISTAKE)
    if options.shutdown_timeout is None:
        given = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
        options.shutdown_timeout = int(given) if given.isdecimal() else SHUTDOWN_SECONDS
    # torch's own handlers would replace those set below.
    ours = {number.name for number in STOP_SIGNALS}
    others = [name for name in options.signals_to_handle.split(",") if name not in ours]
    options.signals_to_handle = ",".join(others)
    stop = Stop(options.shutdown_timeout)
    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    for name, starts in REPEATED.items():
        logging.getLogger(name).addFilter(_without(starts))
    try:
        run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return _status_of_failure(error)
    except SignalException as error:
        if stop.status is not None and stop.status < 128:
            return stop.status
        name = error.sigval.name
        return _say(f"ended by {name} before all ranks had saved", 128 + error.sigval)
    except (ValueError, RendezvousError) as error:
        return _say(" ".join(str(error).split()), MISTAKE)
    return 0


class Stop:
    """Signal handler: passes a stop signal on to the ranks and waits for them to end.

    status: the ranks' exit status afterwards; None before, and if they did not end in time.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._asked = False
        self.status: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Raise torch's SignalException: immediately at a second signal or without ranks, else when the ranks ended."""
        ranks = [] if self._asked else _children()
        self._asked = True
        # A rank saves at SIGINT, SIGTERM and SIGUSR1; SIGHUP (a closed terminal) is passed on as SIGTERM.
        passed_on = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
        for pid in ranks:
            os.kill(pid, passed_on)
        ended = _wait(ranks, self._seconds)
        if ranks and len(ended) == len(ranks):
            self.status = _worst(ended)
        raise SignalException(f"signal {number}", signal.Signals(number))


def _children() -> list[int]:
    """Process ids of children that have not ended; empty without /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.append(int(path.parent.name))
    return found


def _wait(ranks: list[int], seconds: int) -> list[int]:
    """Exit statuses of the ranks that end in time; WNOWAIT leaves the processes for the agent to reap."""
    statuses: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(statuses) < len(ranks) and time.monotonic() < end:
        for pid in ranks:
            said = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if said is not None:
                is_own = said.si_code == os.CLD_EXITED
                statuses[pid] = said.si_status if is_own else 128 + said.si_status
        time.sleep(0.05)
    return list(statuses.values())


def _worst(statuses: list[int]) -> int:
    """One status for all ranks: that of a failure, else STOPPED if a rank saved, else 0."""
    return max(statuses, key=lambda status: (status not in (0, STOPPED), status))


def _status_of_failure(error: ChildFailedError) -> int:
    """Return the status of the rank that failed first; print a line unless the rank printed its reason."""
    rank, failure = error.get_first_failure()
    if failure.exitcode in (MISTAKE, STOPPED):
        return failure.exitcode
    if failure.exitcode < 0:
        why = (
            "; most often the host's memory ran out" if -failure.exitcode == signal.SIGKILL else ""
        )
        return _say(
            f"rank {rank} was ended by {failure.signal_name()}{why}", 128 - failure.exitcode
        )
    return _say(f"rank {rank} ended with status {failure.exitcode}", failure.exitcode)


def _without(starts: tuple[str, ...]) -> Callable[[logging.LogRecord], bool]:
    """A filter that drops log records whose message begins with one of `starts`."""
    return lambda record: not str(record.msg).startswith(starts)


def _say(line: str, status: int) -> int:
    sys.stderr.write(f"ropewalk torchrun: {line}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
