"""Ctrl-C in a command: one line and status 130, at any moment.

While modules are imported, the process ends at once: a package that is being imported may turn a KeyboardInterrupt into
another error. While the command works, KeyboardInterrupt lets it remove unfinished files.
"""

import os
import signal
import sys
from collections.abc import Callable
from threading import Thread
from types import FrameType
from typing import NoReturn

# 128 and the number of SIGINT, as a shell reports it.
STATUS = 130
_line = ""


def end_at_once(line: str) -> None:
    """Make Ctrl-C write `line` to stderr and end this process: the first call of a command, before its imports.

    SIGINT stays ignored where it is ignored, as in a background job of a shell. launch/ropewalk.py blocks SIGINT while
    Python starts; a Ctrl-C of that time arrives here.
    """
    global _line
    _line = f"{line}\n" if line else ""
    _handle(_end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_without_a_line() -> None:
    """Leave Ctrl-C to the system after `end_at_once`: it ends the process inside a library's call too."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(main: Callable[[], int]) -> int:
    """Returns the exit status of `main`. After KeyboardInterrupt the process ends with the line of `end_at_once`."""
    _handle(signal.default_int_handler)
    try:
        status = main()
    except KeyboardInterrupt:
        _end()
    _handle(signal.SIG_DFL)
    return status


def in_thread(work: Callable[[], None]) -> None:
    """Call `work` in a thread: a library's call that takes minutes delays KeyboardInterrupt in the main thread only.

    Raises:
        BaseException: what `work` raises.
    """
    failures: list[BaseException] = []

    def call() -> None:
        try:
            work()
        except BaseException as error:  # raised again below
            failures.append(error)

    thread = Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _handle(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _end(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> NoReturn:
    """Write the line and end: threads of `in_thread` are not waited for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sys.stdout.flush()
        os.write(2, _line.encode(errors="backslashreplace"))
    except (
        OSError,
        RuntimeError,
    ):  # a pipe that nobody reads; a write that this signal interrupted
        pass
    os._exit(STATUS)
