"""Ctrl-C in every command: one line and status 130, never a traceback."""

import os
import signal
import subprocess
import sys

import pytest

from tests.unit.test_launcher import ROOT, ropewalk

MODULES = {name: command.module for name, command in ropewalk.COMMANDS.items()}
SLOW = {"import", "export"}  # they import torch


def ended(*words: str, pending: bool = False) -> tuple[int, str]:
    """Status and stderr of a Python process. pending: SIGINT was sent while the launcher blocked it."""

    def press() -> None:
        if pending:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            os.kill(os.getpid(), signal.SIGINT)

    process = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=press,
    )
    return process.returncode, process.stderr


@pytest.mark.parametrize("name", MODULES)
def test_before_the_imports_of_a_command_it_is_one_line_and_status_130(name: str) -> None:
    module = MODULES[name]
    status, said = ended("-m", module, pending=True)
    assert status == 130, said
    assert said.startswith(f"{module}: stopped")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in MODULES
        if name != "train"  # it saves (tests/smoke/test_ropewalk.py)
    ],
)
def test_while_a_command_works_it_is_one_line_and_status_130(name: str) -> None:
    module = MODULES[name]
    program = (
        "import argparse, os, runpy, signal\n"
        "stop = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_intermixed_args = stop\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    status, said = ended("-c", program)
    assert (status, len(said.splitlines())) == (130, 1), said
    assert said.startswith(f"{module}: stopped")


def test_a_library_that_does_not_return_is_not_waited_for() -> None:
    program = (
        "import os, signal, threading\n"
        "from data.interrupt import end_at_once, in_thread, run\n"
        "end_at_once('stopped')\n"
        "def work():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    threading.Event().wait()\n"
        "run(lambda: in_thread(work))"
    )
    assert ended("-c", program) == (130, "stopped\n")


def test_a_process_that_ignores_it_goes_on_ignoring_it() -> None:
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from data.interrupt import end_at_once, run\n"
        "end_at_once('stopped')\n"
        "raise SystemExit(run(lambda: os.kill(os.getpid(), signal.SIGINT) or 7))"
    )
    assert ended("-c", program) == (7, "")
