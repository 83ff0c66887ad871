"""Supervises a run on one rank: records phases, sets timeouts, reports hangs and errors."""

import os
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Self

from parallel.mesh import Mesh, limit_waits
from parallel.watch.board import Board
from parallel.watch.waiting import flight_record
from parallel.watch.watch import Watch, is_lost_peer
from train.health.exit_status import FAILURE
from train.records.rank_log import RankLog, put_error_aside

# Seconds for writing the final reports; and more for first finding out which rank is gone.
_LAST_WORDS, _QUESTION = 20.0, 60.0


class Supervisor:
    """Constructed on every rank after the world has started; inside the context, a hang ends the run."""

    def __init__(self, mesh: Mesh, folder: Path) -> None:
        self._world = mesh.world
        if mesh.is_main:
            put_error_aside(folder)
        self._log = RankLog(folder, mesh.rank)
        self._kind = ""
        self._watch: Watch | None = None
        if mesh.world.store is not None:
            self._watch = Watch(
                Board(mesh.world.store, mesh.rank),
                rank=mesh.rank,
                world_size=mesh.world_size,
                timeouts=mesh.world.timeouts,
                groups=mesh.world.members,
                on_hang=self._end,
            )

    def __enter__(self) -> Self:
        if self._watch is not None:
            self._watch.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process on an unexpected exception: its threads might wait for peers for ever."""
        if isinstance(error, Exception):
            self._fail(error)
        if self._watch is not None:
            self._watch.__exit__(kind, error, trace)
        self._log.close()

    def phase(self, name: str) -> None:
        """Records what the run does from now on. Of successive phases of one kind only the first is logged."""
        if self._watch is not None:
            self._watch.phase(name)
        kind = name.partition(" ")[0]
        if kind != self._kind:
            self._log.line(name)
        self._kind = kind

    def first_step_done(self) -> None:
        """Switches to the timeouts for running steps (parallel.timeout_seconds)."""
        self._limit(started=True)

    def no_step_expected(self) -> None:
        """Switches to parallel.first_step_seconds, until the next first step: the layout changes, or the run ends."""
        self._limit(started=False)

    def refused(self, text: str) -> None:
        """Logs the reason for which every rank ends the run."""
        self._log.error(text)

    def _limit(self, *, started: bool) -> None:
        limit_waits(self._world, started=started)
        if self._watch is not None:
            self._watch.started = started

    def _fail(self, error: Exception) -> None:
        _end_in(_LAST_WORDS + _QUESTION)
        text = "".join(traceback.format_exception(error))
        if self._watch is not None and is_lost_peer(error):
            sentence = self._watch.explain(error)
            if self._log.error(f"{sentence}\n\n{text}"):
                self._say(sentence)
        elif self._log.error(text):
            sys.stderr.write(text)
        self._exit()

    def _end(self, sentence: str) -> None:
        """Ends the process after a hang, from the watch's thread: the main thread may be blocked for ever."""
        _end_in(_LAST_WORDS)
        self._log.hang(sentence, flight_record())
        if self._log.error(f"nothing moves: {sentence}"):
            self._say(f"nothing moves: {sentence}")
        self._exit()

    def _say(self, sentence: str) -> None:
        sys.stderr.write(
            f"train: rank {self._world.rank}: {sentence}; the same command goes on from the last checkpoint\n"
        )

    def _exit(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(FAILURE)


def _end_in(seconds: float) -> None:
    """Ends this process after `seconds`, even if the file system for its reports hangs."""
    timer = threading.Timer(seconds, os._exit, (FAILURE,))
    timer.daemon = True
    timer.start()
