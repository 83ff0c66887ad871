"""Where every rank leaves its last words: the launcher's store, on a connection of its own.

At 8,000 ranks and the default timeouts these are 800 small writes a second to one server, and one rank
reads, once, when something hangs.
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
# Ranks asked for in one message.
_AT_ONCE = 512


@dataclass(frozen=True)
class HangReport:
    """What one rank found out for all: the sentence, and (home, process, begun) of the silent (`Status`)."""

    sentence: str
    silent: tuple[tuple[str, int, str], ...]


class Board:
    """One rank's view of the store. Every call may block for as long as the server does: see `in_time`."""

    def __init__(self, store: Store, rank: int) -> None:
        self._store = PrefixStore("watch", store)
        self._store.set_timeout(timedelta(seconds=5))
        self._rank = rank

    def publish(self, status: Status) -> None:
        """Replace this rank's last words."""
        self._store.set(f"rank{self._rank}", json.dumps(status.to_dict()))

    def read(self, ranks: Sequence[int]) -> dict[int, Status]:
        """The last words of these ranks; those that never spoke are absent."""
        found = {}
        for first in range(0, len(ranks), _AT_ONCE):
            some = list(ranks[first : first + _AT_ONCE])
            keys = [f"rank{rank}" for rank in some]
            if not self._store.check(keys):  # only then ask for each
                some = [rank for rank in some if self._store.check([f"rank{rank}"])]
                keys = [f"rank{rank}" for rank in some]
            words = self._store.multi_get(keys) if keys else []
            for rank, text in zip(some, words, strict=True):
                found[rank] = Status.from_dict(json.loads(text))
        return found

    def claim(self) -> bool:
        """Whether this rank is the first to ask what has happened, and so the one to find out."""
        return self._store.compare_set("judge", "", str(self._rank)) == str(self._rank).encode()

    def announce(self, found: HangReport) -> None:
        """Tell the others what was found."""
        self._store.set("finding", json.dumps([found.sentence, found.silent]))

    def announced(self) -> HangReport | None:
        """What another rank found; None: nothing yet."""
        if not self._store.check(["finding"]):
            return None
        sentence, silent = json.loads(self._store.get("finding"))
        return HangReport(
            sentence, tuple((home, process, begun) for home, process, begun in silent)
        )


def in_time(work: Callable[[], T], seconds: float) -> T | None:
    """`work()`, or None if it does not end in `seconds` or fails: a dead server answers nobody."""
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
