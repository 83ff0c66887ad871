"""Heartbeat: every rank's latest status, in the launcher's store, on a connection of its own.

At 8,000 ranks and the default timeouts these are 800 small writes a second to one server. Statuses are read only
when something hangs, by one rank.
"""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store

from parallel.watch.verdict import Status

T = TypeVar("T")
# Ranks whose status is read in one message.
_AT_ONCE = 512


@dataclass(frozen=True)
class HangReport:
    """The finding of the one rank that looked. silent: (home, process, begun) of the silent ranks, as in `Status`."""

    sentence: str
    silent: tuple[tuple[str, int, str], ...]


class Board:
    """One rank's access to the store. Every call may block for as long as the server does: use `in_time`."""

    def __init__(self, store: Store, rank: int) -> None:
        self._store = PrefixStore("watch", store)
        self._store.set_timeout(timedelta(seconds=5))
        self._rank = rank

    def publish(self, status: Status) -> None:
        """Replaces this rank's status."""
        self._store.set(f"rank{self._rank}", json.dumps(status.to_dict()))

    def read(self, ranks: Sequence[int]) -> dict[int, Status]:
        """Returns the latest status of these ranks; ranks that never published one are absent."""
        found = {}
        for first in range(0, len(ranks), _AT_ONCE):
            some = list(ranks[first : first + _AT_ONCE])
            keys = [f"rank{rank}" for rank in some]
            if not self._store.check(keys):  # some are missing: check each
                some = [rank for rank in some if self._store.check([f"rank{rank}"])]
                keys = [f"rank{rank}" for rank in some]
            words = self._store.multi_get(keys) if keys else []
            for rank, text in zip(some, words, strict=True):
                found[rank] = Status.from_dict(json.loads(text))
        return found

    def claim(self) -> bool:
        """Returns whether this rank is the first to notice a hang, and so the one that investigates."""
        return self._store.compare_set("judge", "", str(self._rank)) == str(self._rank).encode()

    def announce(self, found: HangReport) -> None:
        """Publishes the finding for the other ranks."""
        self._store.set("finding", json.dumps([found.sentence, found.silent]))

    def announced(self) -> HangReport | None:
        """Returns the finding of another rank; None if there is none yet."""
        if not self._store.check(["finding"]):
            return None
        sentence, silent = json.loads(self._store.get("finding"))
        return HangReport(
            sentence, tuple((home, process, begun) for home, process, begun in silent)
        )


def in_time(work: Callable[[], T], seconds: float) -> T | None:
    """Returns `work()`, or None if it fails or takes longer than `seconds`: calls to a dead server do not return."""
    result: list[T] = []

    def attempt() -> None:
        try:
            result.append(work())
        except (RuntimeError, ValueError):  # c10d's DistError is a RuntimeError
            return

    thread = threading.Thread(target=attempt, name="watch_question", daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
