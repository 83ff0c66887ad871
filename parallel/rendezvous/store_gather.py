"""A gather and a broadcast of strings through the store where the ranks met, for when process groups may be broken.

Slow, but it works where no process group does: a rank that cannot communicate with its peers can still report here,
and a rank that does not report can be named. Every wait has a timeout, also when the store's host is down: see
`StoreLost`.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from torch._C._distributed_c10d import Store

from parallel.watch.board import in_time

T = TypeVar("T")

# Seconds between two reads of the store: the first pause, the longest, and the growth factor.
_FIRST_PAUSE, _LAST_PAUSE, _GROWTH = 0.002, 0.25, 1.3
# A rank counts itself as arrived before it stores its word: how long to wait for the word.
_MOMENT = timedelta(seconds=10)
_LINGER = 5.0
# Seconds that the store may take for any call; longer than _MOMENT.
_PATIENCE = 20.0


class StoreLost(ValueError):
    """The store does not answer: its host is down, stopped, or cut off from here."""

    def __init__(self) -> None:
        super().__init__(
            "the store where the ranks met does not answer: down, stopped or cut off from here"
        )

    def __reduce__(self) -> tuple[type["StoreLost"], tuple[()]]:
        """Pickles with the arguments of `__init__` (none), not with the text."""
        return StoreLost, ()


class StoreGather:
    """One rank's side of the gather. Use every topic once. Every method may raise `StoreLost`.

    A connection to the store serves one call at a time, so waiting polls.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self._store = store
        self.rank, self.world_size = rank, world_size

    def say(self, topic: str, word: str) -> None:
        """Stores this rank's word for the main rank."""
        number = self._add(f"{topic}/arrived", 1)
        self._set(f"{topic}/{number}", f"{self.rank} {word}")

    def hear(
        self, topic: str, seconds: float, meanwhile: Callable[[], None] = lambda: None
    ) -> list[tuple[int, str]]:
        """Returns (rank, word) in order of arrival: of all, or of those that arrived within `seconds`.

        meanwhile: called before every read.
        """

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
        """Publishes the decision and waits until `listeners` others (default: all) have read it, _LINGER at most.

        The store may end with this process.
        """
        wanted = self.world_size - 1 if listeners is None else listeners
        self._set(f"{topic}/decision", decision)
        _wait_until(lambda: self._add(f"{topic}/heard", 0) >= wanted, _LINGER)

    def await_decision(self, topic: str, seconds: float) -> str | None:
        """Returns the main rank's decision; None if there was none within `seconds`."""
        key = f"{topic}/decision"
        if not _wait_until(lambda: self._ask(lambda: self._store.check([key])), seconds):
            return None
        decision = self._get(key)
        self._add(f"{topic}/heard", 1)
        return decision

    def line_up(self, topic: str, seconds: float) -> bool:
        """Waits until every rank has called this; returns False if some did not within `seconds`."""
        self._add(f"{topic}/here", 1)
        return _wait_until(lambda: self._add(f"{topic}/here", 0) >= self.world_size, seconds)

    def is_first(self, topic: str) -> bool:
        """Returns whether this call is the first of any rank for this topic."""
        return self._add(f"{topic}/first", 1) == 1

    def raise_flag(self, name: str) -> None:
        """Sets a flag for all ranks; every rank that calls `line_up` afterwards sees it."""
        self._add(f"{name}/flag", 1)

    def has_flag(self, name: str) -> bool:
        """Returns whether any rank has raised the flag."""
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
    """Polls `true` until it returns True; returns False after `seconds`."""
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(_LAST_PAUSE, pause * _GROWTH)
    return True
