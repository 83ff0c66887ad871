"""A gather and a broadcast of strings through the store where the ranks met, for when process groups may be broken.

Slow, but it works where no process group does: a rank that cannot talk to its peers can still be heard here,
and one that is not heard can be named. Nothing waits longer than it is told to, also when the store's host is
gone: see `StoreLost`.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import Store

from parallel.watch.board import in_time

T = TypeVar("T")

# Seconds between two looks: the first, the longest, and how fast they grow.
_FIRST_PAUSE, _LAST_PAUSE, _GROWTH = 0.002, 0.25, 1.3
# A word is stored a moment after it was announced.
_MOMENT = timedelta(seconds=10)
_LINGER = 5.0
# Seconds that the store may take to answer anything; longer than what it is asked to wait for.
_PATIENCE = 20.0


class StoreLost(ValueError):
    """The store does not answer: its host is down, stopped, or cut off from here."""

    def __init__(self) -> None:
        super().__init__(
            "the store where the ranks met does not answer: down, stopped or cut off from here"
        )

    def __reduce__(self) -> tuple[type["StoreLost"], tuple[()]]:
        """How it travels to the other ranks: with the arguments of `__init__`, not with its text."""
        return StoreLost, ()


class StoreGather:
    """One rank's seat. Every topic is used once. Everything raises `StoreLost`.

    A store's connection serves one call at a time, so waiting is looking again and again.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store = store
        self.rank, self.world_size = rank, world_size

    def say(self, topic: str, word: str) -> None:
        """Leave this rank's word for the main rank."""
        number = self._add(f"{topic}/arrived", 1)
        self._set(f"{topic}/{number}", f"{self.rank} {word}")

    def hear(
        self, topic: str, seconds: float, meanwhile: Callable[[], None] = lambda: None
    ) -> list[tuple[int, str]]:
        """(rank, word) of as many as the world has, in order of arrival, or of those that came in time."""

        def all_have_spoken() -> bool:
            meanwhile()
            return self._add(f"{topic}/arrived", 0) >= self.world_size

        _wait_until(all_have_spoken, seconds)
        said = []
        for number in range(1, self._add(f"{topic}/arrived", 0) + 1):
            rank, _, word = self._get(f"{topic}/{number}").partition(" ")
            said.append((int(rank), word))
        return said

    def decide(self, topic: str, decision: str, listeners: int | None = None) -> None:
        """Answer everybody. Returns when `listeners` others (default: all) have heard it, or some seconds later.

        Not before, because the store may end with this process.
        """
        wanted = self.world_size - 1 if listeners is None else listeners
        self._set(f"{topic}/decision", decision)
        _wait_until(lambda: self._add(f"{topic}/heard", 0) >= wanted, _LINGER)

    def await_decision(self, topic: str, seconds: float) -> str | None:
        """What the main rank decided; None if it did not in time."""
        key = f"{topic}/decision"
        if not _wait_until(lambda: self._ask(lambda: self._store.check([key])), seconds):
            return None
        decision = self._get(key)
        self._add(f"{topic}/heard", 1)
        return decision

    def line_up(self, topic: str, seconds: float) -> bool:
        """Wait until every rank is here; False if some did not come in time."""
        self._add(f"{topic}/here", 1)
        return _wait_until(lambda: self._add(f"{topic}/here", 0) >= self.world_size, seconds)

    def is_first(self, topic: str) -> bool:
        """Whether nobody has asked this before."""
        return self._add(f"{topic}/first", 1) == 1

    def raise_flag(self, name: str) -> None:
        """Tell everybody that something is so; seen by all who line up afterwards."""
        self._add(f"{name}/flag", 1)

    def has_flag(self, name: str) -> bool:
        """Whether anybody raised it."""
        return self._add(f"{name}/flag", 0) > 0

    def _add(self, key: str, number: int) -> int:
        return self._ask(lambda: self._store.add(key, number))

    def _set(self, key: str, value: str) -> None:
        self._ask(lambda: self._store.set(key, value))

    def _get(self, key: str) -> str:
        def get() -> bytes:
            self._store.wait([key], _MOMENT)
            return self._store.get(key)

        return self._ask(get).decode()

    def _ask(self, call: Callable[[], T]) -> T:
        answer = in_time(lambda: (call(),), _PATIENCE)
        if answer is None:
            raise StoreLost
        return answer[0]


def _wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true in time."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(_LAST_PAUSE, pause * _GROWTH)
    return True
