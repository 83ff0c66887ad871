"""Limits the time for creating process groups: on a timeout, reports which ranks are stuck where and ends the start.

Creating a group needs connections between all its ranks, so a firewall or a wrong interface shows here first:
every rank waits for another inside the backend, where it cannot be interrupted. Hence the timer.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from parallel.rendezvous.meeting import Meeting, Words
from parallel.watch.board import in_time
from parallel.watch.waiting import pending
from train.health.exit_status import MISTAKE, refuse, refuse_alone
from train.preflight.findings import Finding, hosts_of, name_ranks, say_by_host

# Seconds for the stuck ranks to report; their timers end nearly together.
_MOMENT = 5.0


@contextmanager
def joining(meeting: Meeting | None, seconds: float) -> Iterator[None]:
    """Ends this process with status 2 if the block takes longer; the main rank reports which ranks are stuck where."""
    if meeting is None or meeting.world_size == 1:
        yield
        return
    timer = threading.Timer(seconds, _end, (meeting, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(meeting: Meeting, seconds: float) -> None:
    waits = pending()
    state = waits[0].operation if waits else "joining the world"
    if not in_time(lambda: _tell(meeting, state, seconds), 3 * _MOMENT):
        refuse_alone(f"{state} took more than {seconds:g} s, and rank 0's store does not answer")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(MISTAKE)


def _tell(meeting: Meeting, state: str, seconds: float) -> bool:
    """Sends this rank's state; returns whether the main rank has printed the report, or will."""
    through_store = meeting.through_store
    through_store.say("stuck", json.dumps([socket.gethostname(), state]))
    if meeting.rank:
        return through_store.await_decision("stuck", 2 * _MOMENT) is not None
    said = through_store.hear("stuck", _MOMENT)
    refuse(stuck_problems(said, meeting.world_size, seconds))
    through_store.decide("stuck", "told", listeners=len(said) - 1)
    return True


def stuck_problems(said: Words, world_size: int, seconds: float) -> list[str]:
    """Returns which ranks are stuck where, and which are silent, by host. said: (rank, JSON of host and state)."""
    told = {rank: json.loads(word) for rank, word in said}
    findings = [
        Finding(
            (rank,),
            f"{state} took more than {seconds:g} s (preflight.join_seconds); see that the hosts reach each other "
            "on any port, through the right interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)",
        )
        for rank, (_, state) in told.items()
    ]
    absent: Sequence[int] = [rank for rank in range(world_size) if rank not in told]
    if absent:
        findings.append(
            Finding((), f"{name_ranks(absent)} said nothing: stopped, dead, or cut off from rank 0")
        )
    return say_by_host(findings, hosts_of([(rank, host, "") for rank, (host, _) in told.items()]))
