"""The rendezvous of the ranks of a launch, in the launcher's store, under a new prefix for every attempt.

torchrun serves one store over all its restarts, so keys of a dead attempt are still there: addresses of processes
that have ended, findings on hangs that are over. No number that the launcher gives distinguishes the attempts on
all hosts. So the main rank chooses a new prefix, and sends it to each rank under a key that only this rank knows:

    rank r     pushes a random name to the queue, waits for the key of that name
    rank 0     takes names from the queue and sets the key of each to the prefix

Rank 0 also sets the keys of names that dead processes left in the queue; no process reads them.
"""

import json
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore

from parallel.launcher import (
    launched_rank,
    launched_world_size,
    launcher_keeps_store,
    meeting_place,
)
from parallel.rendezvous.store_gather import StoreGather
from parallel.watch.verdict import rank_ranges

Words = Sequence[tuple[int, str]]
_ASK = "meeting/ask"
# Seconds that the others wait for the main rank beyond the time it waits for them: its decision must reach them.
_LONGER = 15.0


class Meeting:
    """This rank's connection to the rendezvous. Keeps the store alive, which rank 0 may be serving."""

    def __init__(self, connect: Callable[[], Store], seconds: float) -> None:
        """Agrees with the main rank on the prefix; other ranks wait for it, `seconds` and a little longer.

        Raises:
            ValueError: the main rank did not answer in time.
        """
        self.rank, self.world_size = launched_rank(), launched_world_size()
        self._connect, self._patience = connect, seconds
        self._door = connect()
        self._prefix = secrets.token_hex(8)
        if self.rank:
            self._ask()
        self.through_store = StoreGather(
            PrefixStore(self._prefix, self._door), self.rank, self.world_size
        )

    def connect(self) -> Store:
        """Returns a new connection to the store, for one thread, under the prefix of this attempt."""
        return PrefixStore(self._prefix, self._connect())

    def roll_call(
        self, word: str, judge: Callable[[Words], list[str]], topic: str = "roll call"
    ) -> list[str]:
        """Returns why this world cannot start, one line each, on every rank. Collective.

        word: this rank's string. judge: called on the main rank with the (rank, word) pairs that arrived in time,
        where a rank may occur twice or not at all; returns the lines. topic: a new one for every further call.
        """
        self.through_store.say(topic, word)
        if self.rank == 0:
            said = self.through_store.hear(topic, self._patience, meanwhile=self._answer)
            found = judge(said)
            self.through_store.decide(topic, json.dumps(found), listeners=len(said) - 1)
            return found
        decision = self.through_store.await_decision(topic, self._patience + _LONGER)
        if decision is None:
            return [
                f"{socket.gethostname()}: rank 0 was at {_place()} and then stopped answering; see its output"
            ]
        return [str(line) for line in json.loads(decision)]

    def _ask(self) -> None:
        own = f"meeting/prefix/{self._prefix}"
        self._door.queue_push(_ASK, own)
        try:
            self._door.wait([own], timedelta(seconds=self._patience + _LONGER))
        except dist.DistStoreError:
            raise ValueError(
                f"{socket.gethostname()}: rank 0 did not come to {_place()} in {self._patience:g} s; see why it did "
                "not start"
            ) from None
        self._prefix = self._door.get(own).decode()

    def _answer(self) -> None:
        while self._door.queue_len(_ASK):
            self._door.set(self._door.queue_pop(_ASK).decode(), self._prefix)


def meet(seconds: float) -> Meeting:
    """Connects to the rendezvous store and agrees on the prefix. The main rank must call `roll_call` next.

    Raises:
        ValueError: MASTER_ADDR is not set or not reachable, or the main rank did not answer.
    """
    place, world_size = meeting_place(), launched_world_size()
    if place is None and world_size == 1:
        return Meeting(HashStore, seconds)
    if place is None:
        raise ValueError(
            f"WORLD_SIZE={world_size} is set but MASTER_ADDR is not: start with torchrun, or unset "
            "WORLD_SIZE and RANK to run one process"
        )
    connect = partial(
        TCPStore,
        *place,
        is_master=launched_rank() == 0 and not launcher_keeps_store(),
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        multi_tenant=True,
    )
    try:
        return Meeting(connect, seconds)
    except dist.DistNetworkError as error:
        raise ValueError(
            f"{socket.gethostname()} cannot meet the other ranks at {_place()} in {seconds:g} s: "
            f"{str(error).splitlines()[0].rstrip('.')}; the address must be that of rank 0's host, the port free "
            "there and open to the other hosts"
        ) from None


def meet_all(seconds: float) -> Meeting:
    """Connects to the rendezvous store and checks that every rank arrived exactly once.

    Raises:
        ValueError: as `meet`; or, on every rank that arrived, the problems of `attendance_problems`.
    """
    meeting = meet(seconds)
    found = meeting.roll_call(
        "", lambda said: attendance_problems(said, meeting.world_size, seconds)
    )
    if found:
        raise ValueError("\n".join(found))
    return meeting


def attendance_problems(said: Words, world_size: int, seconds: float) -> list[str]:
    """Returns one line each for ranks that are missing, came twice, or are too large. said: in order of arrival."""
    ranks = [rank for rank, _ in said]
    came = set(ranks)
    absent = [rank for rank in range(world_size) if rank not in came]
    twice = sorted(rank for rank, times in Counter(ranks).items() if times > 1)
    found = []
    if absent:
        found.append(
            f"WORLD_SIZE={world_size}: rank{'s' * (len(absent) > 1)} {rank_ranges(absent)} did not come in "
            f"{seconds:g} s; {len(came)} came. See why the others did not start, or start fewer"
        )
    if twice:
        found.append(
            f"WORLD_SIZE={world_size}: more than one process came as rank {rank_ranges(twice)}; every process "
            "needs a RANK of its own, and every job a MASTER_PORT of its own"
        )
    strangers = sorted(rank for rank in came if rank >= world_size)
    if strangers:
        found.append(
            f"WORLD_SIZE={world_size} on rank 0, but rank {rank_ranges(strangers)} came too: give every process the "
            "same WORLD_SIZE"
        )
    return found


def _place() -> str:
    place = meeting_place()
    return "its own store" if place is None else "MASTER_ADDR={} MASTER_PORT={}".format(*place)
