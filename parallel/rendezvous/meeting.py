"""Where the ranks of a launch first meet: at the launcher's store, under a prefix that nobody used before.

torchrun serves one store over all its restarts, so what a dead attempt wrote is still there: addresses of
processes that are gone, verdicts on hangs that are over. No number that the launcher gives tells the
attempts of all hosts apart. So the main rank chooses a new prefix, and hands it to each rank on a key
that only this rank can have asked for:

    rank r     pushes a random name to the queue, waits for the key of that name
    rank 0     takes names from the queue and sets the key of each to the prefix

A name that a dead process left is answered too; nobody reads it.
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
# Others wait so much longer for the main rank than it waits for them: its verdict has to reach them.
_LONGER = 15.0


class Meeting:
    """Where this rank met the others. Keeps the store alive that rank 0 may be serving."""

    def __init__(self, connect: Callable[[], Store], seconds: float) -> None:
        """Agree on the prefix, which may take `seconds` on other ranks than the main one.

        Raises:
            ValueError: the main rank does not answer.
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
        """A new connection, for one thread, to what is this attempt's alone."""
        return PrefixStore(self._prefix, self._connect())

    def roll_call(
        self, word: str, judge: Callable[[Words], list[str]], topic: str = "roll call"
    ) -> list[str]:
        """Why this world cannot start, one line each, on every rank. Collective.

        word: what this rank has to say. judge: the main rank's, from what all said who came in time; two may
        have come with one rank, and none with another. topic: another one for every further call.
        """
        self.through_store.say(topic, word)
        if self.rank == 0:
            said = self.through_store.hear(topic, self._patience, meanwhile=self._answer)
            found = judge(said)
            self.through_store.decide(topic, json.dumps(found), listeners=len(said) - 1)
            return found
        decision = self.through_store.await_decision(topic, self._patience + _LONGER)
        if decision is None:
            return [f"{socket.gethostname()}: rank 0 came to {_place()} and fell silent"]
        return [str(line) for line in json.loads(decision)]

    def _ask(self) -> None:
        own = f"meeting/prefix/{self._prefix}"
        self._door.queue_push(_ASK, own)
        try:
            self._door.wait([own], timedelta(seconds=self._patience + _LONGER))
        except dist.DistStoreError:
            raise ValueError(
                f"{socket.gethostname()} met nobody: rank 0 did not come to {_place()} in {self._patience:g} s; see "
                "why it did not start"
            ) from None
        self._prefix = self._door.get(own).decode()

    def _answer(self) -> None:
        while self._door.queue_len(_ASK):
            self._door.set(self._door.queue_pop(_ASK).decode(), self._prefix)


def meet(seconds: float) -> Meeting:
    """Go to the meeting place; the main rank then calls the roll.

    Raises:
        ValueError: the launcher names no meeting place, it cannot be reached, or the main rank is not there.
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
    """Go to the meeting place and see that every rank came, once.

    Raises:
        ValueError: as `meet`, and on every rank that came where others did not.
    """
    meeting = meet(seconds)
    found = meeting.roll_call(
        "", lambda said: attendance_problems(said, meeting.world_size, seconds)
    )
    if found:
        raise ValueError("\n".join(found))
    return meeting


def attendance_problems(said: Words, world_size: int, seconds: float) -> list[str]:
    """Who did not come and who came twice, one line each. said: in order of arrival."""
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
