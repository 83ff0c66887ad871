"""The watch of one rank: publishes a heartbeat, and ends the run when its peers do not arrive.

Two daemon threads. One publishes this rank's status on the board; it stops when the process is stopped or cut off
from the board, and the others notice that. The other checks what this process is waiting for. When a wait exceeds
the limit of its axis, the first rank to notice reads from the board which ranks are missing and announces one
sentence; all ranks then call `on_hang` with it, which is not expected to return.

From hang to end: the limit, at most a quarter more, and 5 s where the board is out of reach.
"""

import contextlib
import dataclasses
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch.distributed as dist

from parallel.timeouts import Timeouts
from parallel.watch.board import Board, HangReport, in_time
from parallel.watch.verdict import Members, Status, describe_wait, verdict
from parallel.watch.waiting import Wait, pending

# Seconds between heartbeats: the shortest limit / _FRACTION, between the two others.
_FASTEST, _SLOWEST, _FRACTION = 0.25, 10.0, 16.0
# Heartbeats that a rank may miss.
_MISSED = 2.5
# Seconds between two reads of the store, growing from the first to the last.
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 2.0


class Watch:
    """A context manager: watches while entered. The run sets `phase` and `started`."""

    def __init__(
        self,
        board: Board,
        *,
        rank: int,
        world_size: int,
        timeouts: Timeouts,
        groups: Mapping[str, Members],
        on_hang: Callable[[str], None],
    ) -> None:
        """groups: by description; may grow while the watch runs.

        on_hang: called with the sentence on every rank, in the watch's thread.
        """
        self._board = board
        self._ranks = range(world_size)
        self._timeouts = timeouts
        self._groups = groups
        self._on_hang = on_hang
        limits = [timeouts.seconds, *timeouts.by_axis.values()]
        self._interval = min(_SLOWEST, max(_FASTEST, min(limits) / _FRACTION))
        process = os.getpid()
        self._me = Status(
            rank,
            socket.gethostname(),
            process,
            "start",
            0.0,
            (),
            home=_home(),
            begun=_begun(process),
        )
        self._since = time.monotonic()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("watch_life", self._live), ("watch", self._look))
        ]
        # Whether the first step of this layout is done: from then on the short limits apply.
        self.started = False

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def phase(self, name: str) -> None:
        """Sets what the run is doing on this rank from now on."""
        self._me = dataclasses.replace(self._me, phase=name)
        self._since = time.monotonic()

    def explain(self, error: Exception) -> str:
        """Returns why a transfer failed, in one line: this rank's finding or another's, else the error itself."""
        found = self._ask()
        if found is None:
            return f"{self._words(self.status())}: {str(error).splitlines()[0]}"
        self._end_silent(found)
        return found.sentence

    def status(self) -> Status:
        """Returns this rank's current status."""
        elapsed = time.monotonic() - self._since
        return dataclasses.replace(self._me, seconds=elapsed, waits=tuple(pending()[:4]))

    def _live(self) -> None:
        beat = 0
        while not self._over.is_set():
            beat += 1
            status = dataclasses.replace(self.status(), beat=beat)
            in_time(lambda status=status: self._board.publish(status), self._interval)  # type: ignore[misc]
            self._over.wait(self._interval)

    def _look(self) -> None:
        while not self._over.wait(self._interval):
            found = in_time(self._board.announced, self._interval)
            if found is None:
                if not any(wait.seconds > self._limit(wait) for wait in pending()):
                    continue
                found = self._ask() or HangReport(
                    f"{self._words(self.status())}; the store of the run does not answer: rank 0's host is "
                    "down, stopped, or cut off from here",
                    (),
                )
            if not self._over.is_set():
                self._end_silent(found)
                self._on_hang(found.sentence)
            return

    def _end_silent(self, found: HangReport) -> None:
        """Kills the silent ranks of this host: a stopped process would keep its launcher waiting."""
        for home, process, begun in found.silent:
            if home == self._me.home and begun == _begun(process):
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)

    def _limit(self, wait: Wait) -> float:
        members = self._groups.get(wait.group)
        axis = members.axis if members is not None else "control"
        return self._timeouts.of(axis, started=self.started)

    def _words(self, status: Status) -> str:
        return describe_wait(status, self._groups)

    def _ask(self) -> HangReport | None:
        """Returns the finding: this rank's own if it is the first to ask, else the announced one; None: no answer."""
        patience = (_MISSED + 2) * self._interval + 2.0
        if in_time(self._board.claim, 2.0):
            return in_time(self._judge, patience)
        deadline, pause = time.monotonic() + patience, _FIRST_PAUSE
        while time.monotonic() < deadline:
            announced = in_time(self._board.announced, 2.0)
            if announced is not None:
                return announced
            time.sleep(pause * random.uniform(0.5, 1.5))  # thousands of ranks may read at once
            pause = min(_LAST_PAUSE, 1.5 * pause)
        return None

    def _judge(self) -> HangReport:
        me, first = self.status(), self._board.read(self._ranks)
        silent = {rank for rank, status in first.items() if _is_gone(status, me)}
        last = first
        if not silent:
            time.sleep(_MISSED * self._interval)
            last = self._board.read(self._ranks)
            unheard = {r for r, status in last.items() if first.get(r, me).beat == status.beat}
            silent = (unheard | (set(self._ranks) - last.keys())) - {me.rank}
        last = {**last, me.rank: me}
        found = HangReport(
            verdict(me, last, silent, self._groups),
            tuple(
                (last[rank].home, last[rank].process, last[rank].begun)
                for rank in sorted(silent)
                if rank in last
            ),
        )
        self._board.announce(found)
        return found


def _home() -> str:
    """Returns where a process number has a meaning: this boot of this machine, this container."""
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    try:
        return f"{boot.read_text().strip()} {container.readlink()}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"


def _begun(process: int) -> str:
    """Returns the start time of a process of this host, in ticks since the boot; "" if it has ended."""
    try:
        # After the name, which may hold any characters: state, ..., start time (proc(5), fields 3 and 22).
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_gone(status: Status, me: Status) -> bool:
    """Returns whether that process has ended, even if not reaped yet; False for a process of another `home`."""
    return status.home == me.home and _begun(status.process) != status.begun


def is_lost_peer(error: BaseException) -> bool:
    """Returns whether an exception means a lost or silent peer. Gloo has no exception class for it."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("gloo", "Connection closed by peer", "Connection reset by peer")
    )
